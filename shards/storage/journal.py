"""The redo journal: a committed block's files are replaced all together or not at all, even if the process is killed.

A replacement's files are first written to a separate folder, DIR/blocks/train-00012.TOKEN.redo. A marker in that
folder commits the replacement. Without a marker the old files remain valid; with one, the next process that opens DIR
completes the replacement. The token is different for each replacement, so a suspended process that resumes after its
lock was taken over can't change a replacement that its successor has begun.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from shards.files import publish_file, unpublish_file
from shards.format.index import INDEX_FILE
from shards.storage.shard_dir import Block

REDO_SUFFIX = ".redo"
REDO_FILES = ("shard.tar", "index.parquet", "outcomes.parquet")  # in a redo folder, in the order of `Block.files`
REDO_MARKER = "complete"


def commit_block(root: Path, block: Block, shard: Path, index_part: Path, outcomes_part: Path) -> None:
    """Commit a block that isn't committed. The outcomes part is published last, and is the commit.

    The three finished files have temporary names in DIR's file system.
    """
    if any((root / name).exists() for name in block.files):  # the block has lost a file
        outcomes_part.stat()  # fails in a process whose lock was taken over: its temporary files are gone
        # The old outcomes part would commit a mixture of old and new files, and the index may be of the old tar.
        unpublish_file(root / block.outcomes_part)
        unpublish_file(root / INDEX_FILE)
    for draft, name in zip((shard, index_part, outcomes_part), block.files, strict=True):
        publish_file(draft, root / name)


def replace_block(root: Path, block: Block, shard: Path, index_part: Path, outcomes_part: Path) -> None:
    """Replace the files of a committed block; the arguments are those of `commit_block`."""
    folder = root / f"{redo_prefix(block)}.{secrets.token_hex(4)}{REDO_SUFFIX}"
    for draft, name in zip((shard, index_part, outcomes_part), REDO_FILES, strict=True):
        publish_file(draft, folder / name)
    marker = outcomes_part.with_name(REDO_MARKER)
    marker.touch()
    publish_file(marker, folder / REDO_MARKER)
    _complete(root, block, folder)


def recover_blocks(root: Path, blocks: Iterable[Block]) -> None:
    """Complete the committed replacements of these blocks that a kill interrupted, and discard the others."""
    by_prefix = {redo_prefix(block): block for block in blocks}
    for folder in sorted((root / "blocks").glob(f"*{REDO_SUFFIX}")):
        block = by_prefix.get(f"blocks/{folder.name.partition('.')[0]}")
        if block is None:  # another partition's
            continue
        if (folder / REDO_MARKER).exists():
            _complete(root, block, folder)
        else:
            _remove(folder)


def _complete(root: Path, block: Block, folder: Path) -> None:
    # The index has offsets in the old tar. `finalize` writes a new one.
    unpublish_file(root / INDEX_FILE)
    for draft, name in zip(REDO_FILES, block.files, strict=True):
        if (folder / draft).exists():
            publish_file(folder / draft, root / name)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a redo folder, its marker first, so that a kill leaves a folder that is discarded."""
    for name in (REDO_MARKER, *REDO_FILES):
        unpublish_file(folder / name)
    folder.rmdir()


def redo_prefix(block: Block) -> str:
    """Return the first part of the names of a block's redo folders, relative to DIR."""
    return block.index_part.partition(".")[0]
