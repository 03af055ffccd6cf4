"""Finds the pictures that the arguments of a command name: files, folders, patterns, URLs, lists, shards and stdin."""

import dataclasses
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shards.format.images import PICTURE_EXTENSIONS
from shards.format.index import INDEX_FILE
from stylefinetune.config.data import DataConfig
from stylefinetune.data.dataset import open_index
from stylefinetune.data.staging.source import shard_source
from stylefinetune.data.staging.stage import stage_shards
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.prediction.list_file import LIST_KINDS, list_kind, open_list
from stylefinetune.prediction.pictures import NoPicture, Picture, PictureFile, ShardPicture, is_web_url, picture_at

STDIN = "-"


@dataclasses.dataclass(frozen=True)
class Input:
    """The pictures of one argument, which are found while they are read."""

    find: Callable[[], Iterator[Picture]]
    is_repeatable: bool = True  # whether `find` may be called twice


def open_inputs(arguments: Iterable[str], world: World, *, split: str | None, column: str | None) -> list[Input]:
    """Return the pictures of each argument, in their order.

    Args:
        arguments: a picture, a folder, a pattern such as "photos/*.jpg", an http or https URL, a list with the column
            `column`, a shard directory of which `split` is read, or - for a path or a URL on each line of stdin.
        world: of this process, which copies shards from an object store.
        split: of shards; by default all pictures.
        column: of lists; by default see open_list.

    Raises:
        UserError: a list or a shard directory can't be read.
    """
    return [_open(argument, world, split, column) for argument in arguments]


def _open(argument: str, world: World, split: str | None, column: str | None) -> Input:
    path = Path(argument)
    if argument == STDIN:
        return Input(_read_stdin, is_repeatable=False)
    is_in_store = "://" in argument and not is_web_url(argument)
    if is_in_store or (path / INDEX_FILE).is_file():
        return _open_shards(argument, world, split)
    if path.is_dir():
        return Input(lambda: _walk(path))
    if path.is_file() and list_kind(path) in LIST_KINDS:
        return Input(open_list(path, column))
    if glob.has_magic(argument) and not is_web_url(argument) and not path.exists():
        return Input(lambda: _match(argument))
    return Input(lambda: iter((picture_at(argument),)))


def _match(pattern: str) -> Iterator[Picture]:
    """Yield the pictures that a pattern names; ** matches folders of any depth."""
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 -- Path.glob takes no absolute pattern
    for name in found:
        if not Path(name).is_dir():
            yield PictureFile(name)
    if not found:
        yield NoPicture(pattern, "matches no file")


def _walk(folder: Path) -> Iterator[Picture]:
    """Yield the pictures in a folder and in the folders in it, sorted; hidden ones are skipped."""
    failed: list[OSError] = []
    is_empty = True
    for root, folders, names in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.rpartition(".")[2].lower() in PICTURE_EXTENSIONS:
                is_empty = False
                yield PictureFile(os.path.join(root, name))  # noqa: PTH118 -- a Path for each picture takes long
        while failed:
            is_empty = False
            error = failed.pop()
            yield NoPicture(str(error.filename), f"can't be read: {error.strerror}")
    for error in failed:
        is_empty = False
        yield NoPicture(str(error.filename), f"can't be read: {error.strerror}")
    if is_empty:
        yield NoPicture(str(folder), "has no pictures")


def _read_stdin() -> Iterator[Picture]:
    """Yield the picture that each line of stdin names."""
    with open(0, "rb", closefd=False) as lines:
        for line in lines:
            if location := os.fsdecode(line.rstrip(b"\r\n")):
                yield picture_at(location)


def _open_shards(location: str, world: World, split: str | None) -> Input:
    index = open_index(DataConfig(shards=location))
    entries = index.pictures if split is None else index.entries(split)
    if not len(entries):
        wanted = "no pictures" if split is None else f"no pictures of split {split!r}"
        found = f"; it has {', '.join(index.splits)}" if index.splits else ""
        raise UserError(f"{location} has {wanted}{found}")
    if shard_source(index.root).is_remote:
        stage_shards(index, entries.shard.distinct, index.root, world)
    return Input(lambda: (ShardPicture(entries, row) for row in range(len(entries))))
