"""A DIR under a URL: made in a folder of this machine, its stage, and put there block by block as whole objects.

What lies under the URL is the truth, and enough for any machine to go on with. The stage is an ordinary DIR that lacks
the tars: each goes up once its block is committed and is then removed here, so that the disk holds those alone that are
being made. As in a DIR a block's part of the ledger goes up last, which is its commit; and where a block is replaced,
the new objects lie beside the old ones first, with a marker last (see `journal`).
"""

import contextlib
import hashlib
import secrets
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.format.index import INDEX_FILE
from shards.format.outcomes import OUTCOMES_FILE
from shards.storage.file_lock import WORK_FOLDER
from shards.storage.journal import DRAFTS_FOLDER, REDO_MARKER, REDO_SUFFIX, published_name
from shards.storage.object_lease import ObjectLease
from shards.storage.object_store import ObjectStore
from shards.storage.shard_dir import ROWS_PATH, Block, load_shard_dir

_PARTS = "blocks/"
_JOINED = (INDEX_FILE, OUTCOMES_FILE)  # the ledger last: where it is there, so is the index it speaks of
_TRANSFERS = 16  # small objects at once


class RemoteShardDir:
    """Brings what a stage holds to its URL, and back.

    Args:
        objects: what lies under the URL.
        root: the stage.
        work: a folder for temporary files, of its file system.
        lease: this process's right to write.
        keep_stage: keep the tars in the stage; None is where it has some.

    Attributes:
        tars: sizes in bytes of those under the URL, by name.
        keeps_stage: whether the stage keeps them too.
    """

    def __init__(
        self, objects: ObjectStore, root: Path, work: Path, lease: ObjectLease, *, keep_stage: bool | None
    ) -> None:
        self.tars: dict[str, int] = {}
        self.keeps_stage = any(root.glob("*/*.tar")) if keep_stage is None else keep_stage
        self._objects = objects
        self._root = root
        self._work = work
        self._lease = lease
        self._held: set[str] = set()  # names under the URL
        self._digests: dict[str, str] = {}  # of the small ones

    def pull(self) -> None:
        """Makes the stage what lies under the URL, but for the tars.

        Blocks that were committed in the stage and had not gone up yet when its process ended go up now.
        """
        found = self._objects.list()
        self._held = {name for name in found if not name.startswith(f"{WORK_FOLDER}/")}
        self.tars = {name: size for name, size in found.items() if name in self._held and name.endswith(".tar")}
        rows = self._objects.read(ROWS_PATH)
        path = self._root / ROWS_PATH
        if rows is None or not path.is_file() or path.read_bytes() != rows:
            clear_stage(self._root, staying=())  # of another row order, or of what has been removed since
        unsent = self._find_unsent() if path.is_file() else []
        staying = {name for block in unsent for name in _files_of(block)}
        parts = {name for name in self._held if name.startswith(_PARTS) and REDO_SUFFIX not in name} - staying
        stale = self._fetch(parts)
        staying |= parts
        if self.keeps_stage:
            staying |= {name for name in self.tars if self._is_current(name, stale)}
        clear_stage(self._root, staying)
        for block in unsent:
            self.put_block(block)

    def _find_unsent(self) -> list[Block]:
        shard_dir = load_shard_dir(self._root)
        waiting = [block for block in shard_dir.blocks() if block.outcomes_part not in self._held]
        return [block for block in waiting if shard_dir.committed_rows(block)]

    def _is_current(self, name: str, stale: set[str]) -> bool:
        """Tells whether the stage's copy of a tar is of just the parts that lie under the URL."""
        path = self._root / name
        block = Block(path.parent.name, int(path.stem)) if path.stem.isdecimal() else None
        if block is None or not path.is_file() or path.stat().st_size != self.tars[name]:
            return False
        return self._held >= set(_files_of(block)) and not stale & set(_files_of(block))

    def _fetch(self, names: Iterable[str]) -> set[str]:
        """Copies small objects into the stage, and returns which it had otherwise, or not."""

        def fetch(name: str) -> str | None:
            content, path = self._objects.read(name), self._root / name
            if content is None:
                return None
            self._digests[name] = _hash(content)
            if path.is_file() and path.read_bytes() == content:
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            return name

        with ThreadPoolExecutor(_TRANSFERS) as pool:
            return {name for name in pool.map(fetch, sorted(names)) if name}

    def recover(self, share: Iterable[Block]) -> None:
        """Completes those replacements of these blocks that were committed before a kill, and discards the others."""
        named = {published_name(block): block for block in share}
        for folder in sorted({name.rpartition("/")[0] for name in self._held if f"{REDO_SUFFIX}/" in name}):
            block = named.get(folder.partition(".")[0])
            if block is None:  # another partition's
                continue
            self._lease.check()
            if f"{folder}/{REDO_MARKER}" in self._held:
                self._complete(block, folder)
                self._fetch([block.index_part, block.outcomes_part])
                (self._root / block.shard).unlink(missing_ok=True)  # it may be the one that was replaced
                self.tars[block.shard] = self._objects.list()[block.shard]
            self._remove([f"{folder}/{REDO_MARKER}", *self._held.intersection(_redone(block, folder))])

    def put_states(self) -> None:
        """Puts the row order, and the small states of an assembly, where they aren't what lies under the URL."""
        names = [path.relative_to(self._root).as_posix() for path in self._root.glob(f"{_PARTS}*.json")]
        if (self._root / ROWS_PATH).is_file():
            names.append(ROWS_PATH)
        for name in names:
            if _hash((self._root / name).read_bytes()) != self._digests.get(name):
                self._put(name)
        self._remove(name for name in list(self._digests) if name.endswith(".json") and name not in names)

    def put_block(self, block: Block) -> None:
        """Puts a block that the stage has committed, and removes its tar here; what it had stays until all is there."""
        self._lease.check()
        if not self._held.issuperset(_files_of(block)):
            if self._held.intersection(_files_of(block)):
                # Its commit may be left, and must not come to stand for a half of the new objects.
                self._remove(self._held.intersection([block.outcomes_part, INDEX_FILE]))
            self._put(block.shard)
            self._put(block.index_part)
            self._lease.check()
            self._put(block.outcomes_part)
        elif self._has_same_tar(block):
            self._put(block.outcomes_part)
        else:
            self._replace(block)
        if not self.keeps_stage:
            (self._root / block.shard).unlink(missing_ok=True)

    def _has_same_tar(self, block: Block) -> bool:
        path = self._root / block.shard
        if path.is_file() and path.stat().st_size != self.tars.get(block.shard):
            return False
        return _hash((self._root / block.index_part).read_bytes()) == self._digests.get(block.index_part)

    def _replace(self, block: Block) -> None:
        folder = f"{published_name(block)}.{secrets.token_hex(4)}{REDO_SUFFIX}"
        redone = _redone(block, folder)
        for draft, name in redone.items():
            self._objects.put(self._root / name, draft)
        self._lease.check()
        self._objects.write(f"{folder}/{REDO_MARKER}", b"")
        self._complete(block, folder)
        for name in redone.values():
            self._note(name)
        self._remove([f"{folder}/{REDO_MARKER}", *redone])

    def _complete(self, block: Block, folder: str) -> None:
        # Offsets of the old tar must not be read from the new one. `finalize` makes an index again.
        self._remove([INDEX_FILE])
        for draft, name in _redone(block, folder).items():
            self._objects.copy(draft, name)

    def put_index(self) -> None:
        """Puts index.parquet and, last, outcomes.parquet."""
        self._lease.check()
        for name in _JOINED:
            self._put(name)

    def fetch_tar(self, block: Block) -> None:
        """Copies a committed block's tar into the stage, if it isn't there."""
        path = self._root / block.shard
        if not path.is_file():
            draft = self._work / f"{block.split}-{path.name}.came"
            self._objects.get(block.shard, draft)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)

    def _put(self, name: str) -> None:
        self._objects.put(self._root / name, name)
        self._note(name)

    def _note(self, name: str) -> None:
        """Remembers that an object is what the stage has."""
        self._held.add(name)
        path = self._root / name
        if name.endswith(".tar"):
            self.tars[name] = path.stat().st_size
        else:
            self._digests[name] = _hash(path.read_bytes())

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._objects.remove([name])
            self._held.discard(name)
            self._digests.pop(name, None)


def _files_of(block: Block) -> tuple[str, str, str]:
    """Returns a block's names, that which commits it last."""
    return (block.shard, block.index_part, block.outcomes_part)


def _redone(block: Block, folder: str) -> dict[str, str]:
    """Returns what a replacement's objects become."""
    return dict(zip((f"{folder}/{name}" for name in DRAFTS_FOLDER), _files_of(block), strict=True))


def clear_stage(root: Path, staying: Collection[str] | None = None) -> None:
    """Removes what a stage holds of a DIR, but for names that are to stay; without those, all but its locks."""
    for path in sorted(root.rglob("*"), reverse=True):  # a folder after what it holds
        name = path.relative_to(root).as_posix()
        if name.partition("/")[0] == WORK_FOLDER:
            continue
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif staying is None or (name not in staying and ("/" in name or name in _JOINED)):
            path.unlink()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
