"""Sessions: one process has exclusive access to a DIR and writes there, in the folder or in the stage of a URL."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Generator
from pathlib import Path

from shards.config.schema import Partition, suffix_of
from shards.errors import ShardsError
from shards.location import FILE_SCHEME, cache_folder, object_store_url, url_of
from shards.object_store import ObjectStore
from shards.storage.file_lock import WORK_FOLDER, exclusive_lock
from shards.storage.object_lease import hold_lease
from shards.storage.remote import RemoteShardDir
from shards.storage.shard_dir import ShardDir, load_shard_dir
from shards.storage.stage import clear_stage


def local_root(out: Path, partition: Partition | None = None, base: Path | None = None) -> Path:
    """Return the folder that DIR is written in: itself, or the stage of a URL, in `base` or in the cache folder."""
    url = object_store_url(out)
    if url is None:
        return Path((url_of(out) or str(out)).removeprefix(FILE_SCHEME))
    name = hashlib.sha256(url.encode()).hexdigest()[:16] + suffix_of(partition)
    return (base or cache_folder() / "stage").expanduser().absolute() / name


@dataclasses.dataclass(frozen=True)
class ShardSession:
    """A DIR that this process has locked."""

    name: str  # the path or URL that the user gave, for messages
    root: Path  # the folder to write in
    work: Path  # an empty folder for temporary files, in its file system
    remote: RemoteShardDir | None = None  # uploads blocks to the URL; None if DIR is a folder


@contextlib.contextmanager
def open_session(
    out: Path,
    partition: Partition | None = None,
    plan: str = "",
    base: Path | None = None,
    *,
    keep_stage: bool | None = None,
) -> Generator[ShardSession]:
    """Lock a DIR, or one partition of it, for this process, and bring the stage of a URL up to date.

    `plan` is that of `exclusive_lock`, and `base` is the folder of the stages. The tars stay in the stage if
    `keep_stage` is True, or if it is None and the stage has some.

    Raises:
        ShardsError: another process holds it; or it can't be created, reached or written.
    """
    root, url = local_root(out, partition, base), object_store_url(out)
    if url is None:
        with exclusive_lock(root, partition, plan) as work:
            yield ShardSession(str(root), root, work)
        return
    objects = ObjectStore(url)
    objects.list()  # fails if the URL can't be reached, before a stage is created
    try:
        with errors_naming_url(root, url), exclusive_lock(root, partition, plan) as work:
            with hold_lease(objects, root, partition, plan) as lease:
                remote = RemoteShardDir(objects, root, work, lease, keep_stage=keep_stage)
                remote.pull()
                yield ShardSession(url, root, work, remote)
            if not remote.keeps_stage:
                clear_stage(root)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()  # if it is empty


@contextlib.contextmanager
def open_existing_session(out: Path, base: Path | None = None) -> Generator[tuple[ShardDir, ShardSession]]:
    """Lock all of a DIR that exists, completes what a kill interrupted under its URL, and read it.

    Raises:
        ShardsError: as `open_session`; or nothing was assembled there.
    """
    if object_store_url(out) is None:
        load_shard_dir(local_root(out))  # fails if it is no DIR, before a folder is created
    with open_session(out, base=base) as session:
        shard_dir = load_shard_dir(session.root)
        if session.remote:
            shard_dir = dataclasses.replace(shard_dir, tars=session.remote.tars)
            session.remote.recover(shard_dir.blocks())
        yield shard_dir, session


@contextlib.contextmanager
def errors_naming_url(root: Path, url: str) -> Generator[None]:
    """Replace the stage's path by the URL in error messages, except where they name temporary files."""
    try:
        yield
    except ShardsError as error:
        name, work = str(root), f"{root}/{WORK_FOLDER}"
        parts = (part.replace(name, url) for part in str(error).split(work))
        raise ShardsError(work.join(parts)) from error
