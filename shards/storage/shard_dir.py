"""A shard directory (DIR): the stored order of the list's rows, divided into blocks that are committed one by one."""

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

from shards.config.recipe import Recipe
from shards.errors import ShardsError, first_line
from shards.files import publish_file
from shards.location import refuse_url
from shards.storage.row_file import RowFile, write_row_file

_PARTS = "blocks"
_ROWS_NAME = "rows.parquet"
ROWS_PATH = f"{_PARTS}/{_ROWS_NAME}"  # relative to DIR
_METADATA_KEY = b"recipe"


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of one split that are stored in one tar: the unit of commit."""

    split: str  # the split's name
    number: int  # the block's index in the split, from 0

    @property
    def shard(self) -> str:
        """The tar's name, relative to DIR."""
        return f"{self.split}/{self.number:05d}.tar"

    @property
    def index_part(self) -> str:
        """The name of the block's part of the index, relative to DIR."""
        return f"{_PARTS}/{self.split}-{self.number:05d}.index.parquet"

    @property
    def outcomes_part(self) -> str:
        """The name of the block's part of the outcomes, relative to DIR; this file commits the block."""
        return f"{_PARTS}/{self.split}-{self.number:05d}.outcomes.parquet"

    @property
    def files(self) -> tuple[str, str, str]:
        """The names of the block's three files, the one that commits it last."""
        return self.shard, self.index_part, self.outcomes_part


@dataclasses.dataclass(frozen=True)
class ShardDir:
    """A DIR with its row order."""

    root: Path  # its path
    recipe: Recipe  # what it is made from
    row_file: RowFile  # its rows, in the order in which each split's pictures are stored
    positions: Mapping[str, npt.NDArray[np.int64]]  # positions of each split's rows in `row_file`
    tars: Mapping[str, int] | None = None  # sizes in bytes of the tars under DIR's URL, by name; None if DIR has them

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_file)

    @property
    def rows(self) -> pa.Table:
        """All rows (`ROWS_SCHEMA`), read into memory."""
        return self.row_file.read()

    def blocks(self) -> list[Block]:
        """Return every block, split by split, in row order."""
        return [Block(split, number) for split, starts in self._starts.items() for number in range(len(starts) - 1)]

    def rows_of(self, block: Block) -> list[dict[str, Any]]:
        """Return the block's rows, each with the columns of `ROWS_SCHEMA`."""
        starts = self._starts[block.split]
        return self.row_file.take(self.positions[block.split][starts[block.number] : starts[block.number + 1]])

    def size_of(self, block: Block) -> int:
        """Return the number of the block's rows."""
        starts = self._starts[block.split]
        return int(starts[block.number + 1] - starts[block.number])

    @functools.cached_property
    def _starts(self) -> dict[str, npt.NDArray[np.int64]]:
        """By split, the index of each block's first row among the split's, and then their number."""
        size, sizes = self.recipe.rows_per_shard, self.recipe.rows_of_tars
        if sizes:
            return {split: np.cumsum([0, *sizes[split]]) for split in self.positions}
        counts = {split: len(positions) for split, positions in self.positions.items()}
        return {split: np.append(np.arange(0, count, size), count) for split, count in counts.items()}

    def is_committed(self, block: Block) -> bool:
        """Check whether all of the block's rows are committed."""
        return self.committed_rows(block) == self.size_of(block)

    def committed_rows(self, block: Block) -> int:
        """Return the number of committed rows, which are the block's first: none, all, or those before the list grew.

        A block is committed if its outcomes part exists and its other files are neither missing nor truncated.
        """
        index_part, outcomes_part = self.root / block.index_part, self.root / block.outcomes_part
        size = self._find_size(block.shard)
        if size is None or not (outcomes_part.is_file() and index_part.is_file()):
            return 0
        if size < _find_end(index_part):
            return 0
        try:
            return pq.read_metadata(outcomes_part).num_rows
        except (OSError, ValueError, pa.ArrowException):  # `finalize` reports it
            return self.size_of(block)

    def _find_size(self, shard: str) -> int | None:
        if self.tars is not None:
            return self.tars.get(shard)
        path = self.root / shard
        return path.stat().st_size if path.is_file() else None


def _find_end(index_part: Path) -> int:
    """Return where a block's last picture ends in its tar; 0 if the part can't be read, which `finalize` reports."""
    try:
        part = pq.read_table(index_part, columns=["offset", "length"])
    except (OSError, ValueError, pa.ArrowException):
        return 0
    ends = part.column("offset").to_numpy() + part.column("length").to_numpy()
    return int(ends.max(initial=0))


def load_shard_dir(root: Path) -> ShardDir:
    """Read DIR's recipe and row order.

    Raises:
        ShardsError: nothing was assembled there, or the file can't be read.
    """
    path = root / ROWS_PATH
    if not path.is_file():
        refuse_url(root)
        raise ShardsError(f"{root}: not a shard directory; create it with: shards assemble --list LIST --out {root}")
    try:
        rows = RowFile(path)
        fields = json.loads(rows.metadata[_METADATA_KEY])
        tuples = {name: tuple(fields.get(name, ())) for name in ("classes", "list_lengths")}
        recipe = Recipe(**fields | tuples)
        return ShardDir(root, recipe, rows, rows.positions_by_split())
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise ShardsError(f"{path} can't be read ({first_line(error)}); assemble into another folder") from error


def read_part(root: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a committed block's part of the index or of the outcomes, or some of its columns.

    Raises:
        ShardsError: it can't be read.
    """
    path = root / name
    try:
        return pq.read_table(path, columns=columns and list(columns))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardsError(
            f"{path} can't be read ({first_line(error)}); remove it, and the assemble command makes its block again"
        ) from error


def create_shard_dir(root: Path, recipe: Recipe, rows: pa.RecordBatchReader, work: Path) -> ShardDir:
    """Store DIR's recipe and rows (`ROWS_SCHEMA`), or replace its rows by the same ones followed by new ones.

    `work` is a folder for temporary files, in DIR's file system.
    """
    metadata = json.dumps(recipe.to_json(), sort_keys=True).encode()
    write_row_file(work / _ROWS_NAME, rows, {_METADATA_KEY: metadata})
    publish_file(work / _ROWS_NAME, root / ROWS_PATH)
    return load_shard_dir(root)
