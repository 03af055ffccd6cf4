"""A DIR that one process holds, to write in it: a folder, or the stage of a URL."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Generator
from pathlib import Path

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.location import FILE_SCHEME, cache_folder, object_store_url, url_of
from shards.storage.file_lock import WORK_FOLDER, exclusive_lock
from shards.storage.object_lease import hold_lease
from shards.storage.object_store import ObjectStore
from shards.storage.remote import RemoteShardDir, clear_stage
from shards.storage.shard_dir import ShardDir, load_shard_dir


def local_root(out: Path, partition: Partition | None = None, base: Path | None = None) -> Path:
    """Returns the folder that DIR is made in: itself, or, of a URL, its stage below `base`, or a cache folder."""
    url = object_store_url(out)
    if url is None:
        return Path((url_of(out) or str(out)).removeprefix(FILE_SCHEME))
    task = f"-{partition.index}-of-{partition.count}" if partition else ""
    name = hashlib.sha256(url.encode()).hexdigest()[:16] + task
    return (base or cache_folder() / "stage").expanduser().absolute() / name


@dataclasses.dataclass(frozen=True)
class ShardSession:
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
    storage: RemoteShardDir | None = None


@contextlib.contextmanager
def open_session(
    out: Path,
    partition: Partition | None = None,
    plan: str = "",
    base: Path | None = None,
    *,
    keep_stage: bool | None = None,
) -> Generator[ShardSession]:
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
    root, url = local_root(out, partition, base), object_store_url(out)
    if url is None:
        with exclusive_lock(root, partition, plan) as work:
            yield ShardSession(str(root), root, work)
        return
    objects = ObjectStore(url)
    objects.list()  # refuses what can't be reached before anything is made
    try:
        with errors_naming_url(root, url), exclusive_lock(root, partition, plan) as work:
            with hold_lease(objects, root, partition, plan) as lease:
                storage = RemoteShardDir(objects, root, work, lease, keep_stage=keep_stage)
                storage.pull()
                yield ShardSession(url, root, work, storage)
            if not storage.keeps_stage:
                clear_stage(root)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()  # where it holds nothing


@contextlib.contextmanager
def reopen_session(out: Path, base: Path | None = None) -> Generator[tuple[ShardDir, ShardSession]]:
    """Holds all of a DIR that is made already, with what a kill left in its store put in order, and reads it.

    Raises:
        ShardsError: as `opened`; or nothing was assembled there.
    """
    if object_store_url(out) is None:
        load_shard_dir(local_root(out))  # refuses what is no DIR before anything is made there
    with open_session(out, base=base) as place:
        shard_dir = load_shard_dir(place.root)
        if place.storage:
            shard_dir = dataclasses.replace(shard_dir, tars=place.storage.tars)
            place.storage.recover(shard_dir.blocks())
        yield shard_dir, place


@contextlib.contextmanager
def errors_naming_url(root: Path, url: str) -> Generator[None]:
    """Has messages speak of the URL's objects, not of their copies in the stage; temporary files are there alone."""
    try:
        yield
    except ShardsError as error:
        name, work = str(root), f"{root}/{WORK_FOLDER}"
        parts = (part.replace(name, url) for part in str(error).split(work))
        raise ShardsError(work.join(parts)) from error
