"""Reads and writes index.parquet, which has the position of every kept picture in its tar."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardsError, first_line
from shards.format.columns import Integers, Lists, Names, Rows, Texts, join_numbers
from shards.format.parts import read_parts, take_rows, write_parts
from shards.location import refuse_url

FORMAT_VERSION = 1
INDEX_FILE = "index.parquet"
METADATA_KEY = b"stylefinetune"
_PART_ROWS = 1 << 16  # that are computed with together

INDEX_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # index of the row in the list as read, from 0
        pa.field("key", pa.string(), nullable=False),  # the tar member's name up to its first dot
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # path of the tar relative to DIR, with forward slashes
        pa.field("offset", pa.int64(), nullable=False),  # of the picture's bytes in the tar
        pa.field("length", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # as stored, after EXIF orientation
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # jpg, png, webp, gif, bmp or npy
        pa.field("sha256", pa.string(), nullable=False),  # hex, of those bytes
    ]
)
LABELS = pa.field("labels", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False)
"""All labels of a picture, sorted; the last column of an index whose pictures have several. `label` is the first."""

_NOT_LOADED = ("row", "sha256")
_JOIN: dict[str, Callable[[Iterable[pa.Array]], object]] = {
    "key": Texts.join,
    "split": Names.join,
    "shard": Names.join,
    "format": Names.join,
    "labels": Lists.join,
}


@dataclasses.dataclass(frozen=True)
class IndexMetadata:
    """Facts about DIR, stored in the schema metadata of index.parquet."""

    classes: tuple[str, ...]  # class names in label order
    encode_format: str  # original, pixels or jpg
    image_size: int  # side in pixels of resized pictures; 0 for originals
    list_sha256: str  # hash of the list as read, hex
    seed: int  # of the row order

    def to_bytes(self) -> bytes:
        """Return the metadata as JSON with sorted keys, so that equal metadata gives equal bytes."""
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> "IndexMetadata":
        """Parse the result of `to_bytes`.

        Raises:
            ShardsError: it has another format version.
        """
        fields = json.loads(value)
        version = fields.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ShardsError(f"format version {version}; this release reads version {FORMAT_VERSION}")
        fields["classes"] = tuple(fields["classes"])
        return cls(**fields)


class IndexFile:
    """DIR/index.parquet, which is read a part at a time.

    Raises:
        ShardsError: it is missing, unreadable or of another format version.
    """

    def __init__(self, root: Path) -> None:
        self.root = root  # DIR
        self.path = root / INDEX_FILE
        if not self.path.is_file():
            refuse_url(root)
            raise ShardsError(f"{self.path}: no such file; make it with: shards assemble --list LIST --out {root}")
        self._version = _version_of(self.path)
        with self._name_errors():
            schema = pq.read_schema(self.path)
            self.stored_metadata: bytes = (schema.metadata or {})[METADATA_KEY]
            self.metadata = IndexMetadata.from_bytes(self.stored_metadata)
            self.schema = index_schema(several_labels=LABELS.name in schema.names)

    def read_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows, in parts.

        Raises:
            ShardsError: the file is damaged, or has changed.
        """
        self._check_version()
        schema = pa.schema([self.schema.field(name) for name in columns])
        with self._name_errors():
            for part in read_parts(self.path, columns):
                yield part.cast(schema)

    def read_column(self, name: str) -> Iterator[pa.Array]:
        """Yield a column of all rows, in parts that have rows."""
        for part in self.read_parts([name]):
            yield from (chunk for chunk in part.column(name).chunks if len(chunk))

    def take_rows(self, positions: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return some columns of the rows at these positions, which ascend.

        Raises:
            ShardsError: the file is damaged, or has changed.
        """
        self._check_version()
        with self._name_errors():
            return take_rows(self.path, positions, columns)

    def _check_version(self) -> None:
        if _version_of(self.path) != self._version:
            raise ShardsError(f"{self.path} has changed since it was first read; run the same command again")

    @contextlib.contextmanager
    def _name_errors(self) -> Generator[None]:
        """Turn the errors of a damaged file into one line with the remedy."""
        try:
            yield
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise ShardsError(
                f"{self.path} can't be read as an index ({first_line(error)}); "
                f"remake it with: shards finalize {self.root}"
            ) from error


def _version_of(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@dataclasses.dataclass(frozen=True)
class Entries:
    """The pictures of one split in list order, as columns of length N."""

    root: Path  # DIR; `shard` is relative to it
    key: Texts  # tar keys
    label: Integers  # [N]
    shard: Names  # paths of the tars
    offset: Integers  # [N], of the picture's bytes in its tar
    length: Integers  # [N], in bytes
    width: Integers  # [N], in pixels, as stored, after EXIF orientation
    height: Integers  # [N]
    format: Names  # jpg, png, webp, gif, bmp or npy
    labels: Lists | None = None  # all labels of each picture, sorted; None if each has one

    def __len__(self) -> int:
        return len(self.key)

    def select(self, rows: Rows) -> "Entries":
        """Return the chosen rows; consecutive ones share the memory."""
        texts = {name: getattr(self, name).select(rows) for name in ("key", "shard", "format")}
        numbers = {name: getattr(self, name)[rows] for name in ("label", "offset", "length", "width", "height")}
        return Entries(self.root, **texts, **numbers, labels=None if self.labels is None else self.labels.select(rows))

    def shard_ends(self) -> npt.NDArray[np.int64]:
        """Return where the last picture of each tar in `shard.distinct` ends, in bytes."""
        ends = np.zeros(len(self.shard.distinct), np.int64)
        for start in range(0, len(self), _PART_ROWS):  # int64 sums of all rows would take more memory than the columns
            part = slice(start, start + _PART_ROWS)
            np.maximum.at(ends, self.shard.codes[part], self.offset[part].astype(np.int64) + self.length[part])
        return ends


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The columns of index.parquet by which pictures are read, in memory."""

    file: IndexFile
    split: Names  # of every picture
    pictures: Entries  # of all splits
    fingerprint: str  # sha256 (hex) of rows and metadata; it doesn't depend on DIR's path

    @classmethod
    def load(cls, root: Path) -> "ShardIndex":
        """Read DIR/index.parquet.

        Raises:
            ShardsError: it is missing, unreadable or of another format version.
        """
        file = IndexFile(root)
        digest = hashlib.sha256(file.stored_metadata)
        columns: dict[str, Any] = {}
        for name in file.schema.names:  # one after another, in the order of the fingerprint
            parts = _hash_column(file, name, digest)
            if name in _NOT_LOADED:
                collections.deque(parts, maxlen=0)
            else:
                columns[name] = _JOIN.get(name, join_numbers)(parts)
        return cls(file, columns.pop("split"), Entries(root, **columns), digest.hexdigest())

    @property
    def root(self) -> Path:
        """DIR."""
        return self.file.root

    @property
    def metadata(self) -> IndexMetadata:
        """Facts about DIR."""
        return self.file.metadata

    @property
    def table(self) -> pa.Table:
        """All columns of all rows, read into memory."""
        return pa.concat_tables([self.file.schema.empty_table(), *self.file.read_parts(self.file.schema.names)])

    @property
    def splits(self) -> list[str]:
        """The sorted names of the splits that hold pictures."""
        return self.split.distinct

    def fingerprint_like(self, other: str) -> str:
        """Return `other` if it is a fingerprint of this index, and otherwise `fingerprint`.

        Checkpoints of an earlier release have a fingerprint that was computed in another way.
        """
        if other == self.fingerprint:
            return other
        first = _first_fingerprint(self.file)
        return first if other == first else self.fingerprint

    def entries(self, split: str) -> Entries:
        """Return the pictures of a split; empty if it has none."""
        if split not in self.splits:
            return self.pictures.select(slice(0, 0))
        is_chosen = self.split.codes == self.splits.index(split)
        rows = slice(int(is_chosen.argmax()), len(is_chosen) - int(is_chosen[::-1].argmax()))
        return self.pictures.select(rows if is_chosen[rows].all() else is_chosen)

    def pictures_of(self, shard: str) -> list[dict[str, Any]]:
        """Return key, offset, length and sha256 of the pictures of a tar, by offset.

        Raises:
            ShardsError: index.parquet is damaged, or has changed.
        """
        code = self.pictures.shard.distinct.index(shard)
        first, last = self._row_ranges[code]
        positions = first + np.flatnonzero(self.pictures.shard.codes[first : last + 1] == code)
        return self.file.take_rows(positions, ["key", "offset", "length", "sha256"]).sort_by("offset").to_pylist()

    @functools.cached_property
    def _row_ranges(self) -> list[tuple[int, int]]:
        """The first and the last row of each tar in `pictures.shard.distinct`."""
        codes = self.pictures.shard.codes
        starts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1])  # of runs of rows in the same tar
        first = np.full(len(self.pictures.shard.distinct), len(codes))
        last = np.zeros_like(first)
        np.minimum.at(first, codes[starts], starts)
        np.maximum.at(last, codes[starts], np.append(starts[1:], len(codes)) - 1)
        return list(zip(first.tolist(), last.tolist(), strict=True))


def index_schema(*, several_labels: bool) -> pa.Schema:
    """Return the columns of an index, of pictures with one label or with several."""
    return INDEX_SCHEMA.append(LABELS) if several_labels else INDEX_SCHEMA


def write_index(
    path: Path, parts: Iterable[pa.Table], metadata: IndexMetadata, *, several_labels: bool = False
) -> None:
    """Write tables of `index_schema` to one index with `metadata`; equal rows give equal bytes."""
    schema = index_schema(several_labels=several_labels)
    write_parts(path, parts, schema.with_metadata({METADATA_KEY: metadata.to_bytes()}))


def _hash_column(file: IndexFile, name: str, digest: Any) -> Iterator[pa.Array]:  # noqa: ANN401 -- hashlib has no public type
    """Add a column to a fingerprint, and yield its parts.

    The fingerprint is of the numbers, or of the lengths of all texts (or lists) and then what they contain; so those
    columns are read twice.
    """
    kind = file.schema.field(name).type
    if kind in {pa.string(), LABELS.type}:
        for part in file.read_column(name):
            digest.update(np.diff(_ends(part)).astype(np.int64).data)
    for part in file.read_column(name):
        if kind == pa.string():
            ends = _ends(part)
            digest.update(memoryview(part.buffers()[2] or b"")[ends[0] : ends[-1]])
        else:
            digest.update((part.flatten() if kind == LABELS.type else part).to_numpy().data)
        yield part


def _ends(texts: pa.Array) -> npt.NDArray[np.int32]:
    """Return where each text (or list) ends in the array's values, after the start of the first."""
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]


def _first_fingerprint(file: IndexFile) -> str:
    """Return the fingerprint of releases that hashed the values one by one, in Python."""
    digest = hashlib.sha256(file.stored_metadata)
    for name in INDEX_SCHEMA.names:  # pictures had one label then
        for part in file.read_parts([name]):
            for value in part.column(name).to_pylist():
                digest.update(f"{value}\0".encode())
    return digest.hexdigest()
