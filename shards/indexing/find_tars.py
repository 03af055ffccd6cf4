"""Finds the tars that patterns name: paths, folders, *.tar, {00..09}.tar, and URLs, which are copied first."""

import concurrent.futures
import fnmatch
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shards.errors import ShardsError
from shards.files import make_folder, publish_file
from shards.format.tar import expand_urls
from shards.local.fetch import fetch_file
from shards.object_store import ObjectStore

COPIES_FOLDER = "tars"  # relative to DIR
_STORES = ("s3://", "gs://", "memory://")
_WEB = ("http://", "https://")
_COPIES = 4  # tars that are copied at the same time


def find_tars(patterns: Iterable[str], root: Path) -> list[Path]:
    """Return the tars that the patterns name, each once, in the order of the patterns; those of a `*` are sorted.

    Tars under a URL are first copied to DIR/tars, DIR being `root`; a copy that is there is used again. Links in DIR,
    which an earlier command made, are skipped.

    Raises:
        ShardsError: a pattern names no tar, or a copy fails.
    """
    names = dict.fromkeys(name for pattern in patterns for name in _expand(pattern))
    names = [
        name for name in names if not (Path(name).is_symlink() and root.resolve() in Path(name).absolute().parents)
    ]
    with concurrent.futures.ThreadPoolExecutor(_COPIES) as pool:
        paths = list(pool.map(lambda name: _copy(name, root) if "://" in name else Path(name), names))
    unique: dict[str, Path] = {}
    for path in paths:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def _expand(pattern: str) -> Iterator[str]:
    if pattern.startswith("pipe:"):
        raise ShardsError(f"{pattern[:80]}: a pipe can't be indexed; save its tar to a file first")
    if os.path.exists(pattern):  # noqa: PTH110 -- it may be a URL; its name may have braces
        yield from _expand_path(pattern)
        return
    try:
        names: list[str] = expand_urls(pattern)
    except ValueError as error:  # unbalanced braces
        raise ShardsError(f"{pattern}: {error}; write, for example, shard-{{000..099}}.tar") from error
    for name in names:
        if name.startswith(_WEB):
            yield name
        elif name.startswith(_STORES):
            yield from _expand_objects(name)
        elif "://" in name:
            raise ShardsError(f"{name}: give a path, or an http(s), s3 or gs URL")
        else:
            yield from _expand_path(os.path.expanduser(name))  # noqa: PTH111 -- it may have a *


def _expand_path(name: str) -> list[str]:
    """Return a path, the tars in a folder and in the folders in it, or the paths that match a pattern."""
    if Path(name).is_dir():
        found = sorted(str(path) for path in Path(name).rglob("*.tar"))
    else:
        found = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207 -- absolute, too
    if not found:
        raise ShardsError(f"{name}: no such tar; give paths, 'TARS/*.tar' or 'TARS/shard-{{000..099}}.tar'")
    return found


def _expand_objects(url: str) -> list[str]:
    base, _, name = url.rpartition("/")
    if "*" not in name:
        return [url]
    found = sorted(one for one in ObjectStore(base).list() if fnmatch.fnmatch(one, name) and "/" not in one)
    if not found:
        raise ShardsError(f"{url}: no such object")
    return [f"{base}/{one}" for one in found]


def _copy(url: str, root: Path) -> Path:
    """Copy a tar to DIR, unless it is there."""
    base, _, name = url.partition("?")[0].rpartition("/")
    path = root / COPIES_FOLDER / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    if path.is_file():
        return path
    if url.startswith(_WEB):
        fetch_file(url, path)
        return path
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.part")
    ObjectStore(base).get(name, draft)
    publish_file(draft, path)
    return path
