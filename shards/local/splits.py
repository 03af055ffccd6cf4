"""The names under which folders and tars of a split are known."""

import re
from collections.abc import Iterable
from pathlib import Path

_KNOWN = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}


def split_of(name: str) -> str | None:
    """Return the split that a name stands for: train, val or test."""
    return _KNOWN.get(name.lower())


def split_in(file_name: str) -> str | None:
    """Return the split that one word of a file name stands for, as in imagenet-train-000001.tar."""
    found = {split for word in re.split(r"[^A-Za-z]+", file_name) if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def split_of_path(path: Path) -> str | None:
    """Return the split that a word of the file's name stands for, or that one of its folders is named after."""
    folders = map(split_of, reversed(path.parts[:-1]))
    return split_in(path.stem) or next(filter(None, folders), None)


def rename_splits(found: Iterable[str]) -> dict[str, str]:
    """Return the name of each split in DIR: without a test split, val is named test, since training tests on that."""
    names = set(found)
    return {name: "test" if name == "val" and "test" not in names else name for name in sorted(names)}
