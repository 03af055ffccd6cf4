"""Class names, and the numbers of a list's labels."""

import functools
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import ShardsError
from shards.url_list.flickr_style import FLICKR_STYLE, FLICKR_STYLE_CLASSES

LARGEST_LABEL = 99_999  # every label below it is a class, too
UNLABELLED = "unlabelled"  # the only class of a list without labels
_INTEGER = re.compile(r"\d{1,9}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def read_classes(classes: str | None) -> tuple[str, ...] | None:
    """Read the value of --classes: a file of class names in label order, or flickr_style for the official 20.

    Raises:
        ShardsError: the file can't be read, has no names, or has a name twice.
    """
    if classes is None or classes == FLICKR_STYLE:
        return FLICKR_STYLE_CLASSES if classes else None
    try:
        text = Path(classes).expanduser().read_text(encoding="utf-8-sig")
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ names an unknown user
        raise ShardsError(f"--classes {classes}: {error}; give a text file with one name per line") from error
    if len(set(names)) < len(names) or not names:
        raise ShardsError(f"--classes {classes}: it must name each class once, one name per line")
    return names


def is_label(text: str) -> bool:
    """Return whether a text is a label's number."""
    return bool(_INTEGER.fullmatch(text)) and int(text) <= LARGEST_LABEL


class LabelTexts:
    """The labels of a list as texts: each different one once, and for each row its number among them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[npt.NDArray[np.int32]] = []

    def append(self, texts: list[str]) -> None:
        """Add the labels of further rows."""
        numbers = self._numbers
        self._parts.append(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32))

    @property
    def distinct(self) -> list[str]:
        """The different labels, in the order of their first rows."""
        return list(self._numbers)

    @functools.cached_property
    def numbers(self) -> npt.NDArray[np.int32]:
        """The number of each row's label in `distinct`, once all rows were added."""
        return np.concatenate(self._parts) if self._parts else np.array([], np.int32)

    def first_row(self, texts: set[str]) -> int:
        """Return the first row with one of these labels."""
        first = min(self._numbers[text] for text in texts)  # labels are numbered in the order of their first rows
        return int(np.argmax(self.numbers == first))


def encode_labels(
    labels: LabelTexts, name: str, classes: tuple[str, ...] | None
) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return the labels as numbers (int32), and the class names in label order.

    Integers stay as they are, unless all of them are names in `classes`. Names are numbered in the order of `classes`,
    or in sorted order without it. `name` is the list's in messages.

    Raises:
        ShardsError: a label is not among the classes, or is a number that can't be a label.
    """
    distinct = labels.distinct
    if classes is None:
        _refuse_other_numbers(labels, name)
    if all(map(_INTEGER.fullmatch, distinct)) and not (classes and set(distinct).issubset(classes)):
        numbers = {text: int(text) for text in distinct}
        names = classes or tuple(map(str, range(max(numbers.values(), default=-1) + 1)))
    else:
        names = classes or tuple(sorted(distinct))
        numbers = {name: number for number, name in enumerate(names)}
    unknown = {text for text in distinct if numbers.get(text, len(names)) >= len(names)}
    if unknown:
        row = labels.first_row(unknown)
        text = distinct[labels.numbers[row]][:60]
        raise ShardsError(f"{name}: row {row}'s label {text!r} isn't among the {len(names)} classes")
    return np.array([numbers[text] for text in distinct], np.int32)[labels.numbers], names


def _refuse_other_numbers(labels: LabelTexts, name: str) -> None:
    """Refuse a list with a number among its labels if not all are valid numbers: they would become class names."""
    distinct = labels.distinct
    invalid = {text for text in distinct if not is_label(text)}
    if invalid and any(map(_NUMBER.fullmatch, distinct)):
        row = labels.first_row(invalid)
        text = distinct[labels.numbers[row]][:60]
        raise ShardsError(
            f"{name}: row {row} has the label {text!r}; numbers go from 0 to {LARGEST_LABEL:,}; "
            "if some names look like numbers, give --classes"
        )
