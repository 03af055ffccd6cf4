"""A DIR that one process holds, to write in it: a folder, or the stage of a URL."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Generator
from pathlib import Path

from shards import blocks, index, leases, locks
from shards.config import Partition
from shards.index import ShardsError
from shards.objects import Objects
from shards.sources import cache_folder
from shards.storage import Storage, clear

_FOLDER = "file://"


def url_of_store(out: Path) -> str | None:
    """Returns the URL that DIR was given as; None where it is a folder, as it is with file:// too."""
    url = index.url_of(out)
    return None if url is None or url.startswith(_FOLDER) else url


def root_of(out: Path, partition: Partition | None = None, base: Path | None = None) -> Path:
    """Returns the folder that DIR is made in: itself, or, of a URL, its stage below `base`, or a cache folder."""
    url = url_of_store(out)
    if url is None:
        return Path((index.url_of(out) or str(out)).removeprefix(_FOLDER))
    task = f"-{partition.index}-of-{partition.count}" if partition else ""
    name = hashlib.sha256(url.encode()).hexdigest()[:16] + task
    return (base or cache_folder() / "stage").expanduser().absolute() / name


@dataclasses.dataclass(frozen=True)
class Opened:
    """A DIR that is held for this process.

    Attributes:
        name: what its user calls it.
        root: the folder to work in.
        work: an empty folder for temporary files, of its file system.
        storage: what brings blocks to the URL; None where DIR is a folder.
    """

    name: str
    root: Path
    work: Path
    storage: Storage | None = None


@contextlib.contextmanager
def opened(
    out: Path,
    partition: Partition | None = None,
    plan: str = "",
    base: Path | None = None,
    *,
    keep_stage: bool | None = None,
) -> Generator[Opened]:
    """Holds a DIR, or one partition of it, for this process; of a URL, its stage is brought up to date first.

    Args:
        out: DIR, or its URL.
        partition: which partition of it; None is all of DIR.
        plan: what DIR is made from; tasks that work side by side must agree on it.
        base: folder of the stages.
        keep_stage: keep the tars in the stage; None is where it has some.

    Raises:
        ShardsError: another process holds it, or it can't be made, reached or written.
    """
    root, url = root_of(out, partition, base), url_of_store(out)
    if url is None:
        with locks.exclusive(root, partition, plan) as work:
            yield Opened(str(root), root, work)
        return
    objects = Objects(url)
    objects.list()  # refuses what can't be reached before anything is made
    try:
        with told_of(root, url), locks.exclusive(root, partition, plan) as work:
            with leases.held(objects, root, partition, plan) as lease:
                storage = Storage(objects, root, work, lease, keep_stage=keep_stage)
                storage.pull()
                yield Opened(url, root, work, storage)
            if not storage.keeps_stage:
                clear(root)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()  # where it holds nothing


@contextlib.contextmanager
def opened_again(out: Path, base: Path | None = None) -> Generator[tuple[blocks.ShardDir, Opened]]:
    """Holds all of a DIR that is made already, with what a kill left in its store put in order, and reads it.

    Raises:
        ShardsError: as `opened`; or nothing was assembled there.
    """
    if url_of_store(out) is None:
        blocks.load(root_of(out))  # refuses what is no DIR before anything is made there
    with opened(out, base=base) as place:
        shard_dir = blocks.load(place.root)
        if place.storage:
            shard_dir = dataclasses.replace(shard_dir, tars=place.storage.tars)
            place.storage.recover(shard_dir.blocks())
        yield shard_dir, place


@contextlib.contextmanager
def told_of(root: Path, url: str) -> Generator[None]:
    """Has messages speak of the URL's objects, not of their copies in the stage; temporary files are there alone."""
    try:
        yield
    except ShardsError as error:
        name, work = str(root), f"{root}/{locks.WORK}"
        parts = (part.replace(name, url) for part in str(error).split(work))
        raise ShardsError(work.join(parts)) from error
