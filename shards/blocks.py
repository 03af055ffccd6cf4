"""What a DIR holds: the stored row order, cut into blocks that are committed one by one."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.index import ShardsError

_PARTS = "blocks"
_ROWS_NAME = "rows.parquet"
_METADATA_KEY = b"recipe"


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

    def difference(self, other: "Recipe") -> str | None:
        """Returns what this one has and the other hasn't, or None; classes that the other doesn't name may be any."""
        if self.list_sha256 != other.list_sha256:
            return f"another list (sha256 {self.list_sha256[:12]}..., not {other.list_sha256[:12]}...)"
        for field in dataclasses.fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if field.name != "classes" and mine != others:
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
    """

    root: Path
    recipe: Recipe
    rows: pa.Table

    @functools.cached_property
    def _rows_of_split(self) -> dict[str, pa.Table]:
        splits = sorted(self.rows.column("split").unique().to_pylist())
        return {split: self.rows.filter(pc.field("split") == split) for split in splits}

    def blocks(self) -> list[Block]:
        """Returns every block, split by split, in row order."""
        size = self.recipe.rows_per_shard
        return [
            Block(split, number)
            for split, rows in self._rows_of_split.items()
            for number in range(-(-len(rows) // size))
        ]

    def rows_of(self, block: Block) -> list[dict[str, Any]]:
        """Returns the block's rows, each with the columns of `urls.ROWS_SCHEMA`."""
        size = self.recipe.rows_per_shard
        return self._rows_of_split[block.split].slice(block.number * size, size).to_pylist()

    def is_committed(self, block: Block) -> bool:
        """Tells whether the block is whole: the last file to appear is there, and the others are not lost nor cut."""
        shard, index_part, outcomes_part = (
            self.root / name for name in (block.shard, block.index_part, block.outcomes_part)
        )
        if not all(path.is_file() for path in (outcomes_part, index_part, shard)):
            return False
        return shard.stat().st_size >= _find_end(index_part)


def _find_end(index_part: Path) -> int:
    """Returns where a block's last picture ends in its tar; 0 where the part can't be read: `finalize` says so."""
    try:
        part = pq.read_table(index_part, columns=["offset", "length"])
    except (OSError, ValueError):  # pa.ArrowInvalid is a ValueError
        return 0
    ends = part.column("offset").to_numpy() + part.column("length").to_numpy()
    return int(ends.max(initial=0))


def load(root: Path) -> ShardDir:
    """Reads what DIR was made from.

    Raises:
        ShardsError: nothing was assembled there, or what says so can't be read.
    """
    path = root / _PARTS / _ROWS_NAME
    if not path.is_file():
        raise ShardsError(f"{root}: no shards here; make some with: python -m shards assemble --list LIST --out {root}")
    try:
        rows = pq.read_table(path)
        fields = json.loads(rows.schema.metadata[_METADATA_KEY])
        recipe = Recipe(**fields | {"classes": tuple(fields["classes"])})
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ShardsError(
            f"{path} can't be read ({str(error).splitlines()[0]}); assemble into another folder"
        ) from error
    return ShardDir(root, recipe, rows)


def open_or_create(
    root: Path, recipe: Recipe, work: Path, read_rows: Callable[[], tuple[pa.Table, tuple[str, ...]]]
) -> ShardDir:
    """Returns DIR as it stands where it was made from the same recipe, else fixes its row order.

    Args:
        root: DIR.
        recipe: what this assembly is made from.
        work: a folder for temporary files, of DIR's file system.
        read_rows: gives the rows in order and the class names; it is called only where DIR is new.

    Raises:
        ShardsError: DIR was made from something else.
    """
    if (root / _PARTS / _ROWS_NAME).is_file():
        found = load(root)
        difference = found.recipe.difference(recipe)
        if difference:
            raise ShardsError(f"{root} was made from {difference}; use another --out, or the same settings")
        return found
    rows, classes = read_rows()
    recipe = dataclasses.replace(recipe, classes=classes)
    metadata = json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode()
    pq.write_table(rows.replace_schema_metadata({_METADATA_KEY: metadata}), work / _ROWS_NAME)
    publish(work / _ROWS_NAME, root / _PARTS / _ROWS_NAME)
    return ShardDir(root, recipe, rows)


def publish(draft: Path, path: Path) -> None:
    """Gives a finished file its name, so that it is there whole or not at all, whatever happens to the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def retract(path: Path) -> None:
    """Removes a file, if it is there, so that it stays removed whatever happens to the machine."""
    if path.exists():
        path.unlink()
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
