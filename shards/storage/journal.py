"""The redo journal: a committed block's files are replaced all together or not at all, whatever is killed when.

The new files are gathered in a folder of their own, DIR/blocks/train-00012.TOKEN.redo. A marker beside them commits the
replacement: until it is there the old files stand, and from then on whoever opens DIR next completes what was begun.
Each replacement has a token of its own, so that a process that stood still while another took over, and completed what
it had begun, can't touch what that one begins itself.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from shards.files import publish_file, unpublish_file
from shards.format.index import INDEX_FILE
from shards.storage.shard_dir import Block

REDO_SUFFIX = ".redo"
_SHARD, _INDEX_PART, _OUTCOMES_PART = "shard.tar", "index.parquet", "outcomes.parquet"
DRAFTS_FOLDER = (_SHARD, _INDEX_PART, _OUTCOMES_PART)  # what a replacement's folder holds
REDO_MARKER = "complete"


def commit_block(root: Path, block: Block, shard: Path, index_part: Path, outcomes_part: Path) -> None:
    """Commits a block that wasn't; its part of the ledger comes last, and stands for them all.

    Args:
        root: DIR.
        block: which block.
        shard: the finished tar, under a temporary name in DIR's file system.
        index_part: the block's part of the index, likewise.
        outcomes_part: the block's part of the ledger, likewise.
    """
    if any((root / name).exists() for name in (block.shard, block.index_part, block.outcomes_part)):
        outcomes_part.stat()  # a process whose lock was taken over has no drafts any more: it must not go further
        # It lost a file. Its commit may be left, and must not come to stand for a half of the new files.
        unpublish_file(root / block.outcomes_part)
        unpublish_file(root / INDEX_FILE)  # it may speak of the old tar
    publish_file(shard, root / block.shard)
    publish_file(index_part, root / block.index_part)
    publish_file(outcomes_part, root / block.outcomes_part)


def replace_block(root: Path, block: Block, shard: Path, index_part: Path, outcomes_part: Path) -> None:
    """Puts new files in the place of a committed block's; the arguments are those of `commit`."""
    folder = root / f"{published_name(block)}.{secrets.token_hex(4)}{REDO_SUFFIX}"
    publish_file(shard, folder / _SHARD)
    publish_file(index_part, folder / _INDEX_PART)
    publish_file(outcomes_part, folder / _OUTCOMES_PART)
    marker = outcomes_part.with_name(REDO_MARKER)
    marker.touch()
    publish_file(marker, folder / REDO_MARKER)
    _complete(root, block, folder)


def recover_blocks(root: Path, blocks: Iterable[Block]) -> None:
    """Completes the replacements of these blocks that were committed before a kill, and discards those that weren't."""
    named = {published_name(block): block for block in blocks}
    for folder in sorted((root / "blocks").glob(f"*{REDO_SUFFIX}")):
        block = named.get(f"blocks/{folder.name.partition('.')[0]}")
        if block is None:  # another partition's
            continue
        if (folder / REDO_MARKER).exists():
            _complete(root, block, folder)
        else:
            _clear(folder)


def _complete(root: Path, block: Block, folder: Path) -> None:
    # Offsets of the old tar must not be read from the new one. `finalize` makes an index again.
    unpublish_file(root / INDEX_FILE)
    targets = {_SHARD: block.shard, _INDEX_PART: block.index_part, _OUTCOMES_PART: block.outcomes_part}
    for name, target in targets.items():
        if (folder / name).exists():
            publish_file(folder / name, root / target)
    _clear(folder)


def _clear(folder: Path) -> None:
    """Removes a redo folder, the marker first: a folder without one is discarded."""
    for name in (REDO_MARKER, *DRAFTS_FOLDER):
        unpublish_file(folder / name)
    folder.rmdir()


def published_name(block: Block) -> str:
    """Returns what the names of its replacements' folders, relative to DIR, begin with."""
    return block.index_part.partition(".")[0]
