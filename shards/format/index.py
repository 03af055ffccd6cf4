"""Reads and writes index.parquet: the position of every kept picture, which training reads pictures by."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import ShardsError
from shards.location import refuse_url

FORMAT_VERSION = 1
INDEX_FILE = "index.parquet"
METADATA_KEY = b"stylefinetune"
_GROUP_ROWS = 16_384  # smallest row group in a Parquet file, except the last

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


class Texts:
    """A column of N texts in Arrow's buffers; a Python string is made when it is read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> str:
        return self._column[row].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()


@dataclasses.dataclass(frozen=True)
class Names:
    """A column of N texts of which few are different."""

    distinct: list[str]  # sorted
    codes: npt.NDArray[np.int32]  # int32[N], each row's index in `distinct`

    @classmethod
    def encode(cls, column: pa.ChunkedArray) -> "Names":
        """Return a column of strings in this form."""
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        found: list[str] = encoded.dictionary.to_pylist()
        distinct = sorted(found)
        place = {name: number for number, name in enumerate(distinct)}
        return cls(distinct, np.array([place[name] for name in found], np.int32)[encoded.indices.to_numpy()])

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.distinct[self.codes[row]]

    def __iter__(self) -> Iterator[str]:
        return map(self.distinct.__getitem__, self.codes.tolist())


@dataclasses.dataclass(frozen=True)
class Entries:
    """The pictures of one split in list order, as columns of length N."""

    root: Path  # DIR; `shard` is relative to it
    key: Texts  # tar keys
    label: npt.NDArray[np.int64]  # int64[N]
    shard: Names  # paths of the tars
    offset: npt.NDArray[np.int64]  # int64[N], of the picture's bytes in its tar
    length: npt.NDArray[np.int64]  # int64[N], in bytes
    width: npt.NDArray[np.int64]  # int64[N], in pixels, as stored, after EXIF orientation
    height: npt.NDArray[np.int64]  # int64[N]
    format: Names  # jpg, png, webp, gif, bmp or npy

    def __len__(self) -> int:
        return len(self.key)


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The contents of index.parquet, checked against the schema."""

    root: Path  # DIR
    metadata: IndexMetadata  # facts about DIR
    table: pa.Table  # the rows, in list order within each split
    fingerprint: str  # sha256 (hex) of rows and metadata; it doesn't depend on DIR's path
    stored_metadata: bytes  # `metadata` as it is stored

    @classmethod
    def load(cls, root: Path) -> "ShardIndex":
        """Read DIR/index.parquet.

        Raises:
            ShardsError: it is missing, unreadable or of another format version.
        """
        path = root / INDEX_FILE
        if not path.is_file():
            refuse_url(root)
            raise ShardsError(f"{path}: no such file; make it with: python -m shards assemble --list LIST --out {root}")
        try:
            table = pq.read_table(path)
            value = (table.schema.metadata or {})[METADATA_KEY]
            metadata = IndexMetadata.from_bytes(value)
            table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise ShardsError(
                f"{path} can't be read as an index ({str(error).splitlines()[0]}); "
                f"remake it with: python -m shards finalize {root}"
            ) from error
        return cls(root, metadata, table, _fingerprint(table, value), value)

    @property
    def splits(self) -> list[str]:
        """The sorted names of the splits that hold pictures."""
        return Names.encode(self.table.column("split")).distinct

    def fingerprint_like(self, other: str) -> str:
        """Return the fingerprint in the form in which earlier releases stored it, if `other` is that, or else as now.

        A checkpoint of an earlier release is compared by it.
        """
        if other == self.fingerprint:
            return other
        first = _first_fingerprint(self.table, self.stored_metadata)
        return first if other == first else self.fingerprint

    def entries(self, split: str) -> Entries:
        """Return the pictures of a split; empty if it has none."""
        unused = ["row", "sha256"]  # `filter` copies
        rows = self.table.drop_columns(unused).filter(pc.field("split") == split)
        return Entries(
            root=self.root,
            key=Texts(rows.column("key")),
            label=rows.column("label").to_numpy().astype(np.int64),
            shard=Names.encode(rows.column("shard")),
            offset=rows.column("offset").to_numpy(),
            length=rows.column("length").to_numpy(),
            width=rows.column("width").to_numpy().astype(np.int64),
            height=rows.column("height").to_numpy().astype(np.int64),
            format=Names.encode(rows.column("format")),
        )


def write_index(path: Path, parts: Iterable[pa.Table], metadata: IndexMetadata) -> None:
    """Write tables of `INDEX_SCHEMA` to one index with `metadata`; equal rows give equal bytes."""
    write_parts(path, parts, INDEX_SCHEMA.with_metadata({METADATA_KEY: metadata.to_bytes()}))


def write_parts(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables to one Parquet file, with only a few of them in memory at a time."""
    with pq.ParquetWriter(path, schema) as writer:
        group: list[pa.Table] = []
        for part in parts:
            group.append(part.cast(schema))
            if sum(map(len, group)) >= _GROUP_ROWS:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def _fingerprint(table: pa.Table, metadata: bytes) -> str:
    """Hash the columns' buffers: the numbers, or the lengths of all texts and then their bytes."""
    digest = hashlib.sha256(metadata)
    for column in table.columns:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        if column.type != pa.string():
            for chunk in chunks:
                digest.update(chunk.to_numpy().data)
            continue
        texts = [chunk.cast(pa.large_string()) for chunk in chunks]
        ends = [np.frombuffer(text.buffers()[1], np.int64)[text.offset :][: len(text) + 1] for text in texts]
        for end in ends:
            digest.update(np.diff(end).data)
        for text, end in zip(texts, ends, strict=True):
            digest.update(memoryview(text.buffers()[2] or b"")[end[0] : end[-1]])
    return digest.hexdigest()


def _first_fingerprint(table: pa.Table, metadata: bytes) -> str:
    """Return the fingerprint of releases that hashed the values one by one, in Python."""
    digest = hashlib.sha256(metadata)
    for name in INDEX_SCHEMA.names:
        for value in table.column(name).to_pylist():
            digest.update(f"{value}\0".encode())
    return digest.hexdigest()
