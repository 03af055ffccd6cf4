"""Finds out what pictures a path has: a folder for each class, a list, or shards."""

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path

from shards.format import ShardsError, counted
from shards.format.images import PICTURE_EXTENSIONS
from shards.format.index import ShardIndex
from stylefinetune.errors import UserError
from stylefinetune.init.list_columns import find_columns

TEST_SHARE = 0.2  # of the pictures; `shards assemble` draws a test split of this size
# As `shards assemble` reads folders (shards/local), which this package doesn't import.
_TRAIN = frozenset({"train", "training"})
_SPLITS = _TRAIN | {"val", "valid", "validation", "test", "testing"}
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
_NO_PATH = re.compile(r"https?:/|hf:")
_INDEX = "index.parquet"
_MAX_NAMED = 6  # classes in a summary


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of the pictures before they are read."""

    name: str  # short, for the names of folders
    summary: str  # in words, on one line
    shards: str  # DIR, which exists or is to be made
    assembly: dict[str, object] | None  # the settings of `shards assemble`; None if DIR exists
    train_counts: dict[str, int]  # training pictures of each class; empty if unknown
    test_split: str = "test"  # empty if there is none
    several_labels: bool = False  # a picture may have several

    def __post_init__(self) -> None:
        assert "\n" not in self.summary

    @property
    def train_pictures(self) -> int | None:
        """The number of training pictures; None if unknown."""
        return sum(self.train_counts.values()) if self.train_counts else None


def find_source(path: Path, url_col: str | None = None, label_col: str | None = None) -> Source:
    """Look at a path; `url_col` and `label_col` name the columns of a list.

    Raises:
        UserError: it has no pictures with labels.
    """
    if not path.exists():
        if _NO_PATH.match(str(path)):
            url = re.sub(r"^(\w+):/(?!/)", r"\1://", str(path))
            raise UserError(
                f"{url} isn't on this machine; run shards assemble --list {url} --out DIR first, then give DIR"
            )
        raise UserError(f"{path} doesn't exist; name a folder with a folder for each class, a list, or shards")
    if not path.is_dir():
        return _of_list(path, url_col, label_col)
    if url_col or label_col:
        raise UserError(f"--url_col and --label_col name the columns of a list, and {path} is a folder")
    found = _of_shards(path) if (path / _INDEX).is_file() else _of_folder(path)
    if len(found.train_counts) == 1:
        raise UserError(f"{path} has one class only, {', '.join(found.train_counts)}; a classifier needs two or more")
    return found


def _of_shards(path: Path) -> Source:
    try:
        index = ShardIndex.load(path)
    except ShardsError as error:
        raise UserError(str(error)) from error
    classes = index.metadata.classes
    if "train" not in index.splits:
        raise UserError(f"{path} has no pictures of the split train; it has {', '.join(index.splits) or 'none'}")
    train = index.entries("train")
    counts = Counter(train.label.tolist())
    tests = [split for split in ("test", "val", "validation") if split in index.splits]
    sizes = ", ".join(f"{len(index.entries(split)):,} {split}" for split in index.splits)
    return Source(
        name=_short(path),
        summary=_one_line(f"the shards {path}: {sizes} pictures, {_name_classes(classes)}"),
        shards=str(path),
        assembly=None,
        train_counts={name: counts[label] for label, name in enumerate(classes)},
        test_split=tests[0] if tests else "",
        several_labels=train.labels is not None,
    )


def _of_list(path: Path, url_col: str | None, label_col: str | None) -> Source:
    columns = find_columns(path, url_col, label_col)
    name = _short(path)
    assembly: dict[str, object] = {"list": str(path), "out": f"data/{name}"}
    assembly |= {"url_col": columns.url, "label_col": columns.label} | ({"local": True} if columns.is_local else {})
    what = "paths of local pictures" if columns.is_local else "URLs"
    summary = f"the list {path}: {what} in the column {columns.url}, labels in the column {columns.label}"
    return Source(name, _one_line(summary), f"data/{name}", assembly, {}, several_labels=columns.several_labels)


def _of_folder(path: Path) -> Source:
    folders = _folders(path)
    train = [folder for folder in folders if folder.name.lower() in _TRAIN]
    splits = bool(train) and all(folder.name.lower() in _SPLITS for folder in folders)
    counts: Counter[str] = Counter()
    for folder in (each for root in (train if splits else [path]) for each in _folders(root)):
        counts[folder.name.strip()] += _count_pictures(folder)
    counts = +counts  # without empty folders
    if not counts:
        tars = any(path.glob("*.tar"))
        remedy = (
            f"index its tars first: shards index '{path}/*.tar' --out data/{_short(path)}; then give that folder"
            if tars
            else f"put the pictures into {path}/CLASS/, or name a list or shards"
        )
        raise UserError(f"{path} has no folders of classes with pictures; {remedy}")
    share = 1 if splits and len(folders) > len(train) else 1 - TEST_SHARE
    name, total = _short(path), sum(counts.values())
    kind = "training pictures" if splits else "pictures"
    return Source(
        name=name,
        summary=_one_line(f"the folder {path}: {total:,} {kind}, {_name_classes(tuple(counts))}"),
        shards=f"data/{name}",
        assembly={"list": str(path), "out": f"data/{name}"},
        train_counts={label: max(1, round(count * share)) for label, count in counts.items()},
    )


def _folders(path: Path) -> list[Path]:
    folders = (folder for folder in path.iterdir() if folder.is_dir())
    return sorted(each for each in folders if not each.name.startswith(".") and each.name not in _SYSTEM_FOLDERS)


def _count_pictures(folder: Path) -> int:
    names = (name for _, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sum(name.rpartition(".")[2].lower() in PICTURE_EXTENSIONS for name in names)


def _name_classes(classes: tuple[str, ...]) -> str:
    more = ", ..." if len(classes) > _MAX_NAMED else ""
    return f"{counted(len(classes), 'class')} ({', '.join(classes[:_MAX_NAMED])}{more})"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(path: Path) -> str:
    name = path.resolve().name.partition(".")[0] or "pictures"
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "pictures"
