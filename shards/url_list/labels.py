"""Class names, and the numbers of a list's labels."""

import re
from pathlib import Path

from shards.errors import ShardsError
from shards.url_list.flickr_style import FLICKR_STYLE, FLICKR_STYLE_CLASSES, FLICKR_STYLE_SHA256
from shards.url_list.source import Source

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


def encode_labels(
    texts: list[str], source: Source, classes: tuple[str, ...] | None
) -> tuple[list[int], tuple[str, ...]]:
    """Return the labels as numbers, and the class names in label order.

    Integers stay as they are, unless all of them are names in `classes`. Names are numbered in the order of `classes`,
    or in sorted order without it.

    Raises:
        ShardsError: a label is not among the classes, or is a number that can't be a label.
    """
    distinct = set(texts)
    if classes is None:
        _refuse_other_numbers(texts, distinct, source.name)
        classes = FLICKR_STYLE_CLASSES if source.sha256 == FLICKR_STYLE_SHA256 else None
    if all(map(_INTEGER.fullmatch, distinct)) and not (classes and distinct.issubset(classes)):
        numbers = {text: int(text) for text in distinct}
        names = classes or tuple(map(str, range(max(numbers.values(), default=-1) + 1)))
    else:
        names = classes or tuple(sorted(distinct))
        numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers.get(text, len(names)) for text in texts]
    unknown = next((row for row, label in enumerate(labels) if label >= len(names)), None)
    if unknown is not None:
        text = texts[unknown][:60]
        raise ShardsError(f"--list {source.name}: row {unknown}'s label {text!r} isn't among the {len(names)} classes")
    return labels, names


def _refuse_other_numbers(texts: list[str], distinct: set[str], name: str) -> None:
    """Refuse a list with a number among its labels if not all are valid numbers: they would become class names."""
    invalid = {text for text in distinct if not is_label(text)}
    if invalid and any(map(_NUMBER.fullmatch, distinct)):
        row = next(row for row, text in enumerate(texts) if text in invalid)
        raise ShardsError(
            f"--list {name}: row {row} has the label {texts[row][:60]!r}; numbers go from 0 to {LARGEST_LABEL:,}; "
            "if some names look like numbers, give --classes"
        )
