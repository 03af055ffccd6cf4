"""What a DIR holds: the stored row order, cut into blocks that are committed one by one."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardsError
from shards.files import publish_file
from shards.location import refuse_url

_PARTS = "blocks"
_ROWS_NAME = "rows.parquet"
ROWS_PATH = f"{_PARTS}/{_ROWS_NAME}"  # relative to DIR
_METADATA_KEY = b"recipe"
_GROWING = frozenset({"list_sha256", "images", "classes", "list_lengths"})  # of a recipe


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a DIR is made from: with an equal one, an assembly goes on; with another, it is refused.

    Attributes:
        list_sha256: of the list as read, hex.
        images: how many rows were asked for; -1 is all.
        seed: of the row order.
        labels: rows below this label were taken; None for all.
        test_share: of a list without a split column.
        encode_format: original, pixels or jpg.
        image_size: side in pixels of resized pictures; 0 where originals are kept.
        rows_per_shard: rows of a block.
        classes: class names in label order; empty where none were given and the list hasn't been read.
        list_lengths: how many rows the list had, at first and each time that it had grown.
        split: official or by_owner.
    """

    list_sha256: str
    images: int
    seed: int
    labels: int | None
    test_share: float
    encode_format: str
    image_size: int
    rows_per_shard: int
    classes: tuple[str, ...] = ()
    split: str = "official"  # what DIRs have that were made before there was a choice
    list_lengths: tuple[int, ...] = ()

    def difference(self, other: "Recipe") -> str | None:
        """Returns what this one has and the other hasn't, or None; classes that the other doesn't name may be any.

        The list and how many of its rows are taken may differ: both can grow.
        """
        for field in dataclasses.fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if field.name not in _GROWING and mine != others:
                return f"{field.name} {mine}, not {others}"
        if other.classes and self.classes != other.classes[: len(self.classes)]:
            return f"the classes {', '.join(self.classes)[:80]}, not {', '.join(other.classes)[:80]}"
        return None


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of one split that stand in one tar: the unit of commit.

    Attributes:
        split: the split's name.
        number: the block's place in the split, from 0.
    """

    split: str
    number: int

    @property
    def shard(self) -> str:
        """Returns the tar's name, relative to DIR."""
        return f"{self.split}/{self.number:05d}.tar"

    @property
    def index_part(self) -> str:
        """Returns the name of the block's part of the index, relative to DIR."""
        return f"{_PARTS}/{self.split}-{self.number:05d}.index.parquet"

    @property
    def outcomes_part(self) -> str:
        """Returns the name of the block's part of the ledger, relative to DIR; it is there once all others are."""
        return f"{_PARTS}/{self.split}-{self.number:05d}.outcomes.parquet"


@dataclasses.dataclass(frozen=True)
class ShardDir:
    """A DIR whose row order is fixed.

    Attributes:
        root: its path.
        recipe: what it is made from.
        rows: `urls.ROWS_SCHEMA`, in the order in which each split's pictures are stored.
        tars: sizes of its tars in bytes, by name, where they lie elsewhere; None where they are in DIR.
    """

    root: Path
    recipe: Recipe
    rows: pa.Table
    tars: Mapping[str, int] | None = None

    @functools.cached_property
    def _places(self) -> dict[str, npt.NDArray[np.int64]]:
        """Places in `rows` of each split's, in order; splits in order of their names."""
        splits = self.rows.column("split").combine_chunks().dictionary_encode()
        names, numbers = splits.dictionary.to_pylist(), splits.indices.to_numpy()
        return {name: np.flatnonzero(numbers == names.index(name)) for name in sorted(names)}

    def blocks(self) -> list[Block]:
        """Returns every block, split by split, in row order."""
        size = self.recipe.rows_per_shard
        return [
            Block(split, number) for split, places in self._places.items() for number in range(-(-len(places) // size))
        ]

    def rows_of(self, block: Block) -> list[dict[str, Any]]:
        """Returns the block's rows, each with the columns of `urls.ROWS_SCHEMA`."""
        size = self.recipe.rows_per_shard
        return self.rows.take(self._places[block.split][block.number * size :][:size]).to_pylist()

    def size_of(self, block: Block) -> int:
        """Returns how many rows the block has."""
        size = self.recipe.rows_per_shard
        return min(size, len(self._places[block.split]) - block.number * size)

    def is_committed(self, block: Block) -> bool:
        """Tells whether all of the block's rows are committed."""
        return self.committed_rows(block) == self.size_of(block)

    def committed_rows(self, block: Block) -> int:
        """Returns how many of the block's rows, from its first on, are committed: 0, all, or those before it grew.

        They are where the last file to appear is there, and the others are neither lost nor cut.
        """
        index_part, outcomes_part = self.root / block.index_part, self.root / block.outcomes_part
        size = self._find_size(block.shard)
        if size is None or not (outcomes_part.is_file() and index_part.is_file()):
            return 0
        if size < _find_end(index_part):
            return 0
        try:
            return pq.read_metadata(outcomes_part).num_rows
        except (OSError, ValueError, pa.ArrowException):  # `finalize` says so
            return self.size_of(block)

    def _find_size(self, shard: str) -> int | None:
        if self.tars is not None:
            return self.tars.get(shard)
        path = self.root / shard
        return path.stat().st_size if path.is_file() else None


def _find_end(index_part: Path) -> int:
    """Returns where a block's last picture ends in its tar; 0 where the part can't be read: `finalize` says so."""
    try:
        part = pq.read_table(index_part, columns=["offset", "length"])
    except (OSError, ValueError, pa.ArrowException):
        return 0
    ends = part.column("offset").to_numpy() + part.column("length").to_numpy()
    return int(ends.max(initial=0))


def load_shard_dir(root: Path) -> ShardDir:
    """Reads what DIR was made from.

    Raises:
        ShardsError: nothing was assembled there, or what says so can't be read.
    """
    path = root / _PARTS / _ROWS_NAME
    if not path.is_file():
        refuse_url(root)
        raise ShardsError(f"{root}: no shards here; make some with: python -m shards assemble --list LIST --out {root}")
    try:
        rows = pq.read_table(path)
        fields = json.loads(rows.schema.metadata[_METADATA_KEY])
        tuples = {name: tuple(fields.get(name, ())) for name in ("classes", "list_lengths")}
        recipe = Recipe(**fields | tuples)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise ShardsError(
            f"{path} can't be read ({str(error).splitlines()[0]}); assemble into another folder"
        ) from error
    return ShardDir(root, recipe, rows)


def read_part(root: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a committed block's part of the index or of the ledger, or some of its columns.

    Raises:
        ShardsError: it can't be read.
    """
    path = root / name
    try:
        return pq.read_table(path, columns=columns and list(columns))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ShardsError(
            f"{path} can't be read ({reason}); remove it, and the assemble command makes its block again"
        ) from error


def shard_dir_exists(root: Path) -> bool:
    """Tells whether DIR's row order is fixed already."""
    return (root / _PARTS / _ROWS_NAME).is_file()


def create_shard_dir(root: Path, recipe: Recipe, rows: pa.Table, work: Path) -> ShardDir:
    """Fixes DIR's row order, or puts a longer one in its place.

    Args:
        root: DIR.
        recipe: what it is made from.
        rows: `urls.ROWS_SCHEMA`, in order; of a DIR that is made already, what it has with more behind.
        work: a folder for temporary files, of DIR's file system.
    """
    metadata = json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode()
    pq.write_table(rows.replace_schema_metadata({_METADATA_KEY: metadata}), work / _ROWS_NAME)
    publish_file(work / _ROWS_NAME, root / _PARTS / _ROWS_NAME)
    return ShardDir(root, recipe, rows)
