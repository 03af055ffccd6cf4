"""A list of image URLs and labels -> rows: read, numbered, chosen and split, the same way each time."""

import dataclasses
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.config.schema import Split
from shards.errors import ShardsError
from shards.url_list.flickr_style import FLICKR_STYLE, FLICKR_STYLE_CLASSES, FLICKR_STYLE_SHA256
from shards.url_list.parse import (
    INTEGER,
    LARGEST_LABEL,
    ROWS_SCHEMA,
    is_label,
    parse_list,
    read_caffe_lists,
    text_label_schema,
)
from shards.url_list.provenance import owner_of
from shards.url_list.source import SPLIT_NAME, Source

_SPLIT_COLUMNS = ("_split", "split")
_KEY_LENGTH = 80
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which rows of a list to take, and what to call its labels.

    Attributes:
        images: how many, or -1 for all.
        seed: of the permutation, and of the split where the list has none.
        labels: take rows whose label is below this; None for all.
        classes: class names in label order, or None for those that the list itself has.
        test_share: share of the test split where it is drawn.
        split: official takes the list's own split column, or draws by URL where it has none; by_owner draws by owner.
    """

    images: int = -1
    seed: int = 831486
    labels: int | None = None
    classes: tuple[str, ...] | None = None
    test_share: float = 0.2
    split: Split = "official"


class SelectedRows(NamedTuple):
    """The rows of a list that are taken.

    Attributes:
        rows: of ROWS_SCHEMA, in their seeded order.
        classes: class names in label order.
        lengths: how many rows the list had, at first and each time that it had grown.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    lengths: tuple[int, ...]


def select_rows(source: Source, choice: Selection, lengths: tuple[int, ...] = ()) -> SelectedRows:
    """Reads a list and takes what is wanted of it.

    The order and the choice are those of Caffe's assemble_data.py: NumPy's legacy permutation of the whole list, then
    the rows below `labels`, then the first `images`. A Caffe list file is taken whole, and stands as it is written.

    Where the list has grown, the rows that it had before stay in the order, and under the keys, that they had without
    the new ones. Those are permuted among themselves, by the same seed, and stand behind.

    Args:
        source: the list.
        choice: what to take of it.
        lengths: how many rows it had before, at first and each time that it had grown.

    Raises:
        ShardsError: the list isn't one, or lacks what is needed.
    """
    if source.is_local:
        if choice.images > 0 or choice.labels is not None:
            raise ShardsError("--images and --labels choose from a list of URLs; a Caffe list file is taken whole")
        if choice.split != "official":
            raise ShardsError(f"--split {choice.split} is for a list of URLs; a Caffe list file is a split by itself")
        table = read_caffe_lists(source)
    else:
        table = parse_list(source)
        lengths = _add_length(lengths, len(table), source.name)
        table = _normalise(table, source.name, choice, lengths)
    table, names = _number_labels(table, source, choice)
    if not source.is_local:
        table = table.take(pa.array(_permute(choice.seed, lengths)))
        if choice.labels is not None:
            table = table.filter(pc.field("label") < choice.labels)
        if choice.images > 0:
            table = table.slice(0, choice.images)
    if not len(table):
        raise ShardsError(f"--list {source.name}: no row is left to download")
    return SelectedRows(table.cast(ROWS_SCHEMA), names, lengths)


def _add_length(lengths: tuple[int, ...], length: int, name: str) -> tuple[int, ...]:
    if lengths and length < lengths[-1]:
        raise ShardsError(f"--list {name} has {length} rows, where it had {lengths[-1]}; rows may be added at its end")
    return lengths if lengths[-1:] == (length,) else (*lengths, length)


def _permute(seed: int, lengths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Returns the list's row numbers in their order; what it has grown by each time is permuted by itself."""
    bounds = itertools.pairwise((0, *lengths))
    return np.concatenate([start + np.random.RandomState(seed).permutation(end - start) for start, end in bounds])


def _normalise(table: pa.Table, name: str, choice: Selection, lengths: tuple[int, ...]) -> pa.Table:
    """Brings a list's columns to ROWS_SCHEMA's, with labels still as text."""
    columns = table.column_names
    for needed in ("image_url", "label"):
        if needed not in columns:
            raise ShardsError(f"--list {name}: no column {needed} among {', '.join(columns)[:200]}")
    split_column = next((column for column in _SPLIT_COLUMNS if column in columns), None)
    urls, labels = _texts(table, "image_url"), _texts(table, "label")
    if "" in labels:
        raise ShardsError(f"--list {name}: row {labels.index('')} has no label")
    others = [column for column in columns if column not in {"id", "image_url", "label", split_column}]
    further = table.select(others).to_pylist()
    if choice.split == "by_owner":
        splits = [_draw_split(owner_of(row) or url, choice) for row, url in zip(further, urls, strict=True)]
    else:
        splits = _texts(table, split_column) if split_column else [_draw_split(url, choice) for url in urls]
    for row, split in enumerate(splits):
        if not SPLIT_NAME.fullmatch(split):
            raise ShardsError(
                f"--list {name}: row {row} has the split {split[:60]!r}; letters, digits, _ and - make one"
            )
    ids = _texts(table, "id") if "id" in columns else [""] * len(urls)
    extras = [json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) for row in further]
    columns = [list(range(len(urls))), _make_keys(ids, lengths), urls, splits, labels, extras or ["{}"] * len(urls)]
    return pa.table([pa.array(column) for column in columns], names=ROWS_SCHEMA.names).cast(text_label_schema())


def _texts(table: pa.Table, column: str) -> list[str]:
    return ["" if value is None else str(value).strip() for value in table.column(column).to_pylist()]


def _draw_split(owner: str, choice: Selection) -> str:
    """Draws from the seed and a row's owner or URL alone: rows of one stand together, and a list may grow anywhere."""
    draw = int.from_bytes(hashlib.sha256(f"{choice.seed} {owner}".encode()).digest()[:8], "big")
    return "test" if draw < choice.test_share * 2**64 else "train"


def _make_keys(ids: list[str], lengths: tuple[int, ...]) -> list[str]:
    """Turns ids into unique tar keys; a changed, repeated or missing id gets its row's number.

    Rows that a list has grown by take none from those before them.
    """
    cleaned = [re.sub(r"[^A-Za-z0-9_-]", "_", value)[:_KEY_LENGTH] for value in ids]
    taken: set[str] = set()
    keys = [""] * len(ids)
    for start, end in itertools.pairwise((0, *lengths)):
        for row in range(start, end):
            if ids[row] and ids[row] == cleaned[row] and ids[row] not in taken:
                keys[row] = ids[row]
                taken.add(ids[row])
        for row in range(start, end):
            if keys[row]:
                continue
            key = f"{cleaned[row][: _KEY_LENGTH - 20]}-{row}" if ids[row] else f"{row:08d}"
            while key in taken:
                key += f"-{row}"
            keys[row] = key
            taken.add(key)
    return keys


def read_classes(classes: str | None) -> tuple[str, ...] | None:
    """Reads a file of class names, in label order; flickr_style is the official list's 20, None stays None.

    Raises:
        ShardsError: it can't be read, or names none, or one twice.
    """
    if classes is None or classes == FLICKR_STYLE:
        return FLICKR_STYLE_CLASSES if classes else None
    try:
        names = tuple(line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ShardsError(f"--classes {classes}: {error}; give a text file with a name a line") from error
    if len(set(names)) < len(names) or not names:
        raise ShardsError(f"--classes {classes}: it must name each class once, a name a line")
    return names


def _refuse_odd_numbers(labels: list[str], name: str) -> None:
    """Refuses what would become a class by accident: where one label looks like a number, all must be valid ones.

    Raises:
        ShardsError: it names the first one.
    """
    if not any(_NUMBER.fullmatch(label) for label in set(labels)):
        return
    for row, label in enumerate(labels):
        if not is_label(label):
            raise ShardsError(
                f"--list {name}: row {row} has the label {label[:60]!r}; numbers go from 0 to {LARGEST_LABEL:,}, "
                "and for names among numbers, or that look like them, give --classes"
            )


def _number_labels(table: pa.Table, source: Source, choice: Selection) -> tuple[pa.Table, tuple[str, ...]]:
    """Turns text labels into int32: integers stay, unless all are names of the class list, which are numbered by it."""
    texts: list[str] = table.column("label").to_pylist()
    distinct = set(texts)
    given = choice.classes
    if given is None:
        _refuse_odd_numbers(texts, source.name)
    if all(INTEGER.fullmatch(text) for text in distinct) and not (given and distinct.issubset(given)):
        numbers = {text: int(text) for text in distinct}
        count = max(numbers.values(), default=-1) + 1
        if given is None and source.sha256 == FLICKR_STYLE_SHA256:
            given = FLICKR_STYLE_CLASSES
        names = given or tuple(str(number) for number in range(count))
        unknown = next((row for row, text in enumerate(texts) if numbers[text] >= len(names)), None)
    else:
        names = given or tuple(sorted(distinct))
        numbers = {name: number for number, name in enumerate(names)}
        unknown = next((row for row, text in enumerate(texts) if text not in numbers), None)
    if unknown is not None:
        label = texts[unknown][:60]
        raise ShardsError(f"--list {source.name}: row {unknown}'s label {label!r} isn't among the {len(names)} classes")
    labels = pa.array([numbers[text] for text in texts], pa.int32())
    table = table.set_column(table.column_names.index("label"), "label", labels)
    return table, names if choice.labels is None else names[: choice.labels]
