"""A DIR under a URL: assembled in a stage on this machine, and uploaded block by block.

The objects under the URL are authoritative, and any machine can continue from them. The stage is an ordinary DIR
without tars. Each tar is uploaded once its block is committed, and then removed from the stage, so the disk holds only
the tars that are being written. As in a folder, a block's outcomes part is uploaded last and commits it. A block is
replaced as in `journal`: the new objects are uploaded to a redo folder, with a marker last.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from shards.format.index import INDEX_FILE
from shards.object_store import ObjectStore
from shards.storage.journal import REDO_FILES, REDO_MARKER, REDO_SUFFIX, redo_prefix
from shards.storage.object_lease import ObjectLease
from shards.storage.shard_dir import ROWS_PATH, Block, load_shard_dir
from shards.storage.stage import JOINED_FILES, Stage, clear_stage

_PARTS = "blocks/"


class RemoteShardDir:
    """Commits what a stage holds to its URL, and brings the stage up to date.

    The stage is the folder `root`, and `work` is a folder for temporary files in its file system. The attribute
    `keeps_stage` is whether the tars stay in the stage; they do if `keep_stage` is None and the stage has some.
    """

    def __init__(
        self, objects: ObjectStore, root: Path, work: Path, lease: ObjectLease, *, keep_stage: bool | None
    ) -> None:
        self.keeps_stage = any(root.glob("*/*.tar")) if keep_stage is None else keep_stage
        self._objects = objects
        self._root = root
        self._work = work
        self._lease = lease
        self._stage = Stage(root, objects)

    @property
    def tars(self) -> dict[str, int]:
        """Sizes in bytes of the tars under the URL, by name."""
        return self._stage.tars

    def pull(self) -> None:
        """Bring the stage up to date with the URL, except for the tars.

        Uploads the blocks that were committed in the stage when its process ended, and not uploaded yet.
        """
        stage, path = self._stage, self._root / ROWS_PATH
        stage.refresh()
        rows = self._objects.read(ROWS_PATH)
        if rows is None or not path.is_file() or path.read_bytes() != rows:
            clear_stage(self._root, keep=())  # the stage has another row order, or the objects were removed
        pending = self._find_pending() if path.is_file() else []
        keep = {name for block in pending for name in block.files}
        parts = {name for name in stage.names if name.startswith(_PARTS) and REDO_SUFFIX not in name} - keep
        changed = stage.download(parts)
        keep |= parts
        if self.keeps_stage:
            keep |= {name for name in self.tars if self._is_current(name, changed)}
        clear_stage(self._root, keep)
        for block in pending:
            self.put_block(block)

    def _find_pending(self) -> list[Block]:
        shard_dir = load_shard_dir(self._root)
        missing = [block for block in shard_dir.blocks() if block.outcomes_part not in self._stage.names]
        return [block for block in missing if shard_dir.committed_rows(block)]

    def _is_current(self, name: str, changed: set[str]) -> bool:
        """Check whether the stage's copy of a tar belongs to the parts under the URL."""
        path = self._root / name
        block = Block(path.parent.name, int(path.stem)) if path.stem.isdecimal() else None
        if block is None or not path.is_file() or path.stat().st_size != self.tars[name]:
            return False
        return self._stage.names.issuperset(block.files) and changed.isdisjoint(block.files)

    def recover(self, blocks: Iterable[Block]) -> None:
        """Complete the committed replacements of these blocks that a kill interrupted, and discard the others."""
        stage, by_prefix = self._stage, {redo_prefix(block): block for block in blocks}
        for folder in sorted({name.rpartition("/")[0] for name in stage.names if f"{REDO_SUFFIX}/" in name}):
            block = by_prefix.get(folder.partition(".")[0])
            if block is None:  # another partition's
                continue
            self._lease.check()
            if f"{folder}/{REDO_MARKER}" in stage.names:
                self._complete(block, folder)
                stage.download([block.index_part, block.outcomes_part])
                (self._root / block.shard).unlink(missing_ok=True)  # it may be the old one
                self.tars[block.shard] = self._objects.list()[block.shard]
            stage.remove([f"{folder}/{REDO_MARKER}", *stage.names.intersection(_redo_targets(block, folder))])

    def put_state_files(self) -> None:
        """Upload the row order and an assembly's JSON files if they have changed, and remove those that are gone."""
        stage = self._stage
        names = {path.relative_to(self._root).as_posix() for path in self._root.glob(f"{_PARTS}*.json")}
        names |= {ROWS_PATH} if (self._root / ROWS_PATH).is_file() else set()
        for name in sorted(names):
            if not stage.is_uploaded(name):
                stage.upload(name)
        found = {name for name in stage.names if name.startswith(_PARTS) and name.endswith(".json")}
        stage.remove(found - names)

    def put_block(self, block: Block) -> None:
        """Upload a block that the stage has committed and remove its tar here; replace an older one all at once."""
        self._lease.check()
        stage, present = self._stage, self._stage.names.intersection(block.files)
        if len(present) < len(block.files):
            if present:
                # The old outcomes part would commit a mixture of old and new objects.
                stage.remove(stage.names.intersection([block.outcomes_part, INDEX_FILE]))
            stage.upload(block.shard)
            stage.upload(block.index_part)
            self._lease.check()
            stage.upload(block.outcomes_part)
        elif self._has_same_tar(block):
            stage.upload(block.outcomes_part)
        else:
            self._replace(block)
        if not self.keeps_stage:
            (self._root / block.shard).unlink(missing_ok=True)

    def _has_same_tar(self, block: Block) -> bool:
        path = self._root / block.shard
        if path.is_file() and path.stat().st_size != self.tars.get(block.shard):
            return False
        return self._stage.is_uploaded(block.index_part)

    def _replace(self, block: Block) -> None:
        folder = f"{redo_prefix(block)}.{secrets.token_hex(4)}{REDO_SUFFIX}"
        targets = _redo_targets(block, folder)
        for draft, name in targets.items():
            self._objects.put(self._root / name, draft)
        self._lease.check()
        self._objects.write(f"{folder}/{REDO_MARKER}", b"")
        self._complete(block, folder)
        for name in block.files:
            self._stage.mark_uploaded(name)
        self._stage.remove([f"{folder}/{REDO_MARKER}", *targets])

    def _complete(self, block: Block, folder: str) -> None:
        # The index has offsets in the old tar. `finalize` writes a new one.
        self._stage.remove([INDEX_FILE])
        for draft, name in _redo_targets(block, folder).items():
            self._objects.copy(draft, name)

    def put_index(self) -> None:
        """Upload index.parquet and, last, outcomes.parquet."""
        self._lease.check()
        for name in JOINED_FILES:
            self._stage.upload(name)

    def fetch_tar(self, block: Block) -> None:
        """Download a committed block's tar into the stage, if it isn't there."""
        path = self._root / block.shard
        if not path.is_file():
            draft = self._work / f"{block.split}-{path.name}.download"
            self._objects.get(block.shard, draft)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)


def _redo_targets(block: Block, folder: str) -> dict[str, str]:
    """Return the names of a redo folder's objects, each with the name that it replaces."""
    return dict(zip((f"{folder}/{name}" for name in REDO_FILES), block.files, strict=True))
