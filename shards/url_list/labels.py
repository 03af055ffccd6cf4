"""Class names, and the numbers of a list's labels."""

import dataclasses
import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import RowError, ShardsError, shorten
from shards.format.columns import Lists
from shards.url_list.flickr_style import FLICKR_STYLE, FLICKR_STYLE_CLASSES

LARGEST_LABEL = 99_999  # every label below it is a class, too
UNLABELLED = "unlabelled"  # the only class of a list without labels
_INTEGER = re.compile(r"(\d{1,9})(\.0*)?")  # pandas and spreadsheets write whole numbers as 3.0, too
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_MISSING = frozenset({"nan", "none", "null", "nil", "nat", "n/a", "#n/a", "<na>"})  # texts of a missing value
_LIST = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)")  # as pandas and Python write a list, set or tuple


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
    number = _to_number(text)
    return number is not None and number <= LARGEST_LABEL


def _to_number(text: str) -> int | None:
    found = _INTEGER.fullmatch(text)
    return int(found[1]) if found else None


def doubtful_classes(classes: Sequence[str], train_labels: Set[int] | None) -> list[str]:
    """Return warnings about classes that are probably mistakes in the list, a line each.

    `train_labels` are the labels of all training pictures; None if no picture is for training.
    """
    warnings: list[str] = []
    if missing := [name for name in classes if name.casefold() in _MISSING]:
        warnings.append(
            f"classes with the name of a missing value: {shorten(missing)}; remove pictures that have no label"
        )
    if lists := [name for name in classes if _LIST.fullmatch(name)]:
        warnings.append(
            f"classes whose names look like lists: {shorten(lists)}; "
            "for several labels a picture, give a JSON or Parquet list, or --label_separator"
        )
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    if groups := [" and ".join(names) for names in alike.values() if len(names) > 1]:
        warnings.append(
            f"different classes whose names differ only in case, spaces or Unicode form: {shorten(groups)}; "
            "give them one name if they are one class"
        )
    if train_labels is not None:
        unused = [name for label, name in enumerate(classes) if label not in train_labels]
        if unused:
            warnings.append(f"classes without training pictures: {shorten(unused)}")
    return warnings


@dataclasses.dataclass(frozen=True)
class RowLabels:
    """The labels of N rows as numbers."""

    label: npt.NDArray[np.int32]  # [N], the first label of each row
    several: Lists | None = None  # all labels of each row, sorted; None if each row has one


class LabelTexts:
    """The labels of a list as texts: each different one once, and for each row its number, or numbers, among them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[npt.NDArray[np.int32]] = []
        self._counts: list[npt.NDArray[np.int64]] = []
        self.are_lists = False  # whether a row has a list of labels

    def append(self, texts: list[str]) -> None:
        """Add the labels of further rows, which have one each."""
        numbers = self._numbers
        self._parts.append(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32))
        self._counts.append(np.ones(len(texts), np.int64))

    def append_lists(self, lists: list[list[str]]) -> None:
        """Add the labels of further rows, which have a list each."""
        self.append(list(itertools.chain.from_iterable(lists)))
        self._counts[-1] = np.array([len(labels) for labels in lists], np.int64)
        self.are_lists = True

    @property
    def distinct(self) -> list[str]:
        """The different labels, in the order of their first rows."""
        return list(self._numbers)

    @functools.cached_property
    def numbers(self) -> npt.NDArray[np.int32]:
        """The numbers of all rows' labels in `distinct`, in the order of the rows, once all rows were added."""
        return np.concatenate(self._parts) if self._parts else np.array([], np.int32)

    def first_of(self, texts: set[str]) -> tuple[int, str]:
        """Return the first row with one of these labels, and this label."""
        first = min(self._numbers[text] for text in texts)  # labels are numbered in the order of their first rows
        place = int(np.argmax(self.numbers == first))
        return int(np.searchsorted(np.cumsum(np.concatenate(self._counts)), place, side="right")), self.distinct[first]

    def by_row(self, numbers: npt.NDArray[np.int32]) -> RowLabels:
        """Return labels by row, given the number of each label in `distinct`; a label counts once in its row."""
        found = numbers[self.numbers]
        if not self.are_lists:
            return RowLabels(found)
        counts = np.concatenate(self._counts)
        rows = np.repeat(np.arange(len(counts)), counts)
        unique = np.unique(rows * (LARGEST_LABEL + 1) + found)
        rows, values = np.divmod(unique, LARGEST_LABEL + 1)
        several = Lists(np.searchsorted(rows, np.arange(len(counts) + 1)), values.astype(np.int32))
        return RowLabels(several.first, several)


def encode_labels(labels: LabelTexts, classes: tuple[str, ...] | None) -> tuple[RowLabels, tuple[str, ...]]:
    """Return the labels as numbers, and the class names in label order.

    Integers, also those that are written as 3.0, stay as they are, unless all of them are names in `classes`. Names are
    numbered in the order of `classes`, or in sorted order without it.

    Raises:
        RowError: a label is not among the classes, or is a number that can't be a label.
    """
    distinct = labels.distinct
    if classes is None:
        _refuse_other_numbers(labels)
    found = {text: number for text in distinct if (number := _to_number(text)) is not None}
    if len(found) == len(distinct) and not (classes and set(distinct).issubset(classes)):
        numbers = found
        names = classes or tuple(map(str, range(max(numbers.values(), default=-1) + 1)))
    else:
        names = classes or tuple(sorted(distinct))
        numbers = {name: number for number, name in enumerate(names)}
    unknown = {text for text in distinct if numbers.get(text, len(names)) >= len(names)}
    if unknown:
        row, text = labels.first_of(unknown)
        raise RowError(
            row,
            f"has the label {text[:60]!r}, which isn't among the {len(names)} classes; "
            "correct it, or add a line to the file of --classes",
        )
    return labels.by_row(np.array([numbers[text] for text in distinct], np.int32)), names


def _refuse_other_numbers(labels: LabelTexts) -> None:
    """Refuse a list with a number among its labels if not all are valid numbers: they would become class names."""
    distinct = labels.distinct
    invalid = {text for text in distinct if not is_label(text)}
    if invalid and any(map(_NUMBER.fullmatch, distinct)):
        row, text = labels.first_of(invalid)
        raise RowError(
            row,
            f"has the label {text[:60]!r}; numbers go from 0 to {LARGEST_LABEL:,}; "
            "if some names look like numbers, give --classes",
        )
