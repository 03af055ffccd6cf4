"""Joins the samples of all tars: unique keys, numbered labels, and splits."""

import bisect
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.config.recipe import Recipe
from shards.errors import RowError, ShardsError
from shards.format.index import LABELS
from shards.indexing.config import IndexConfig
from shards.local.splits import rename_splits, split_of_path
from shards.url_list.convert import draw_split
from shards.url_list.labels import LabelTexts, RowLabels, encode_labels, read_classes
from shards.url_list.select import make_keys

_ROWS_PER_SHARD = 1_000  # of DIRs that are made from this one; here, each tar has its own number


@dataclasses.dataclass(frozen=True)
class Contents:
    """The samples of all tars, N rows, in the order of the tars."""

    scans: Sequence[Path]  # the file with the samples of each tar
    starts: Sequence[int]  # row of the first sample of each tar, and N
    keys: Sequence[str]
    labels: RowLabels
    split_names: Sequence[str]  # sorted
    splits: npt.NDArray[np.int8]  # the number of each row's split in `split_names`
    recipe: Recipe
    is_drawn: bool  # whether the splits are drawn

    def read(self, number: int) -> pa.Table:
        """Return the samples of one tar (`SCAN_SCHEMA`), with their row, key, split, and labels as numbers."""
        start, end = self.starts[number], self.starts[number + 1]
        splits = [self.split_names[split] for split in self.splits[start:end].tolist()]
        columns = {
            "row": pa.array(np.arange(start, end)),
            "key": pa.array(self.keys[start:end], pa.string()),
            "split": pa.array(splits, pa.string()),
            "label": pa.array(self.labels.label[start:end]),
        }
        if self.labels.several is not None:
            columns[LABELS.name] = self.labels.several.select(slice(start, end)).to_arrow()
        table = pq.read_table(self.scans[number])
        table = table.select([name for name in table.column_names if name not in {"label", LABELS.name}])
        for name, values in columns.items():
            table = table.append_column(name, values)
        return table

    def tars_of(self, split: str) -> list[int]:
        """Return the tars that have samples of a split, in order; the nth of them is the split's block n."""
        return np.flatnonzero(self._counts(split)).tolist()

    def _counts(self, split: str) -> npt.NDArray[np.int64]:
        is_in = np.concatenate([[0], np.cumsum(self.splits == self.split_names.index(split))])
        return np.diff(is_in[list(self.starts)])

    def rows_of_tars(self) -> dict[str, list[int]]:
        """Return the number of samples of each split in each of its tars."""
        counts = {split: self._counts(split) for split in self.split_names}
        return {split: each[each > 0].tolist() for split, each in counts.items() if each.any()}


def join_scans(tars: Sequence[Path], scans: Sequence[Path], config: IndexConfig) -> Contents:
    """Join the samples of all tars.

    Raises:
        ShardsError: the labels are no classes, or there is no sample.
    """
    starts, ids, splits, labels, digest = [0], list[str](), list[int](), LabelTexts(), hashlib.sha256()
    found = _find_splits(tars, config)
    names = sorted(set(found) if found else {"train", "test"})
    for number, scan in enumerate(scans):
        columns = [name for name in ("id", "label", LABELS.name, "sha256") if name in pq.read_schema(scan).names]
        table = pq.read_table(scan, columns=columns)
        hashes = table.column("sha256").to_pylist()
        ids += table.column("id").to_pylist()
        texts = _append_labels(table, labels)
        digest.update("".join(f"{each} {text}\n" for each, text in zip(hashes, texts, strict=True)).encode())
        drawn = [found[number]] * len(hashes) if found else _draw_splits(hashes, config)
        splits += [names.index(split) for split in drawn]
        starts.append(len(ids))
    if not ids:
        raise ShardsError(f"none of the {len(tars)} tars has a picture, such as KEY.jpg; choose it with --picture_ext")
    classes = read_classes(config.classes)
    if classes is None and config.rules.label_from == "folder":
        classes = tuple(sorted(labels.distinct))  # a folder's name is never a label's number
    try:
        numbers, classes = encode_labels(labels, classes)
    except RowError as error:
        tar = tars[bisect.bisect_right(starts, error.row) - 1]
        raise ShardsError(f"{tar}: the sample {ids[error.row]} {error.problem}") from error
    recipe = Recipe(
        list_sha256=digest.hexdigest(),
        images=-1,
        seed=config.seed,
        labels=None,
        test_share=config.test_share,
        encode_format="original",
        image_size=0,
        rows_per_shard=_ROWS_PER_SHARD,
        classes=classes,
        list_lengths=(len(ids),),
        indexed=True,
        several_labels=labels.are_lists,
    )
    contents = Contents(
        scans, starts, make_keys(ids, (len(ids),)), numbers, names, np.array(splits, np.int8), recipe, found is None
    )
    return dataclasses.replace(contents, recipe=dataclasses.replace(recipe, rows_of_tars=contents.rows_of_tars()))


def _append_labels(samples: pa.Table, labels: LabelTexts) -> Sequence[str]:
    """Add the labels of a tar's samples, and return a text for each sample's."""
    texts: list[str] = samples.column("label").to_pylist()
    lists: list[list[str] | None] = [None] * len(texts)
    if LABELS.name in samples.column_names:  # not in the file of a scan by an earlier release
        lists = samples.column(LABELS.name).to_pylist()
    if not any(lists):
        labels.append(texts)
        return texts
    several = [names or [text] for names, text in zip(lists, texts, strict=True)]
    labels.append_lists(several)
    return [json.dumps(names) for names in several]


def _find_splits(tars: Sequence[Path], config: IndexConfig) -> list[str] | None:
    """Return the split of each tar, from the setting or its path; None if they are to be drawn."""
    if config.split is not None:
        return [config.split] * len(tars)
    found = [split_of_path(path.absolute()) for path in tars]
    if not all(found):
        return None
    known = [split for split in found if split]
    names = rename_splits(known)
    return [names[split] for split in known]


def _draw_splits(hashes: Sequence[str], config: IndexConfig) -> Iterator[str]:
    """Draw splits by the pictures' hashes: equal pictures are in the same split."""
    return (draw_split(each, config.seed, config.test_share) for each in hashes)
