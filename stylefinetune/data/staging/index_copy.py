"""Finds the folder of a run's shards; for an object store, a folder with a copy of the index and of the mean picture.

The copies are stored in STAGE_DIR/NAME, by default ~/.cache/stylefinetune/staged/NAME. NAME depends on the URL and on
the version of the index, so that a run never mixes the shards of two indexes.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
from collections.abc import Generator
from pathlib import Path

from shards.format import cache_folder, object_store_url, sync_path
from shards.format.index import INDEX_FILE
from stylefinetune.config.data import DataConfig
from stylefinetune.data.staging.shard_copier import PART_SUFFIX, copy_error
from stylefinetune.data.staging.source import SOURCE_FILE, ShardStore, file_version
from stylefinetune.errors import UserError

MEAN_FILE = "mean.npy"
_LOCK_FILE = ".index.lock"
_MAX_NAME = 60  # characters of a URL in a folder's name


def is_in_store(config: DataConfig) -> bool:
    """Return whether the shards are in an object store."""
    return object_store_url(Path(config.shards)) is not None


def shards_folder(config: DataConfig) -> Path:
    """Return the folder that has the index and the mean picture, after copying them from an object store.

    Within a process, the first call decides on the version.

    Raises:
        UserError: the store can't be reached or has no index, or the copy can't be written.
    """
    if not is_in_store(config):
        return Path(config.shards)
    base = Path(config.stage_dir).expanduser().absolute() if config.stage_dir else cache_folder() / "staged"
    return _copy_index(config.shards.rstrip("/"), base)


@functools.cache
def _copy_index(url: str, base: Path) -> Path:
    store = ShardStore(url)
    found = store.listed.get(INDEX_FILE)
    if found is None:
        what = "has no objects" if not store.listed else f"has no {INDEX_FILE}"
        raise UserError(f"data.shards: {url} {what}; make it with: shards assemble --list LIST --out {url}")
    digest = hashlib.sha256(repr((url, found)).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", url.partition("://")[2])[-_MAX_NAME:].lstrip(".")
    folder = base / f"{name}-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            for file in (INDEX_FILE, MEAN_FILE):
                if file in store.listed:
                    _download(store, file, folder)
            source = folder / f"{SOURCE_FILE}{PART_SUFFIX}"
            source.write_text(json.dumps({"url": url}), encoding="utf-8")
            source.replace(folder / SOURCE_FILE)
    except OSError as error:
        raise copy_error(error, folder) from error
    return folder


def _download(store: ShardStore, name: str, folder: Path) -> None:
    """Copy a file, unless its copy has the version of the object."""
    version, path = store.version(name), folder / name
    assert version is not None
    if file_version(path) == version:
        return
    part = path.with_name(name + PART_SUFFIX)
    store.download(name, part)
    os.utime(part, ns=(version[1], version[1]))
    sync_path(part)
    part.replace(path)


@contextlib.contextmanager
def _lock(folder: Path) -> Generator[None]:
    """Hold the lock of a folder's index, so that one process of a node copies it while the others wait."""
    with (folder / _LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
