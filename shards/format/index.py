"""index.parquet: where every kept picture lies in the shards; the contract between the data side and training."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
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
_GROUP_ROWS = 16_384  # that a Parquet file is written by

INDEX_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # the row's place in the list as read, from 0
        pa.field("key", pa.string(), nullable=False),  # the tar member's name before its first dot
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # the tar, relative to DIR, with forward slashes
        pa.field("offset", pa.int64(), nullable=False),  # of the picture's bytes within the tar
        pa.field("length", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # as stored, after EXIF orientation
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # jpg, png, webp, gif, bmp or npy
        pa.field("sha256", pa.string(), nullable=False),  # hex, of exactly those bytes
    ]
)


@dataclasses.dataclass(frozen=True)
class IndexMetadata:
    """What index.parquet says of the whole DIR, kept in its schema metadata.

    Attributes:
        classes: class names in label order.
        encode_format: original, pixels or jpg.
        image_size: side in pixels of resized pictures; 0 where originals were kept.
        list_sha256: of the list as read, hex.
        seed: of the row order.
    """

    classes: tuple[str, ...]
    encode_format: str
    image_size: int
    list_sha256: str
    seed: int

    def to_bytes(self) -> bytes:
        """Returns the schema metadata's value: JSON with sorted keys, so that equal contents are equal bytes."""
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> "IndexMetadata":
        """Reads what `to_bytes` wrote.

        Raises:
            ShardsError: another format version wrote it.
        """
        fields = json.loads(value)
        version = fields.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ShardsError(f"format version {version} is not the {FORMAT_VERSION} that this release reads")
        fields["classes"] = tuple(fields["classes"])
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Entries:
    """The pictures of one split in list order, as columns of equal length N.

    Attributes:
        root: DIR, which `shard` is relative to.
        key: tar keys.
        label: int64[N].
        shard: tar names.
        offset: int64[N], of the picture's bytes within its tar.
        length: int64[N], in bytes.
        width: int64[N], in pixels, as stored and upright.
        height: int64[N].
        format: jpg, png, webp, gif, bmp or npy.
    """

    root: Path
    key: list[str]
    label: npt.NDArray[np.int64]
    shard: list[str]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    height: npt.NDArray[np.int64]
    format: list[str]

    def __len__(self) -> int:
        return len(self.key)


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """A whole index.parquet, checked against the schema.

    Attributes:
        root: the DIR it was read from.
        metadata: what it says of the whole DIR.
        table: the rows, in list order within each split.
        fingerprint: sha256 (hex) of rows and metadata, equal for equal contents wherever DIR lies.
    """

    root: Path
    metadata: IndexMetadata
    table: pa.Table
    fingerprint: str

    @classmethod
    def load(cls, root: Path) -> "ShardIndex":
        """Reads DIR/index.parquet.

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
        return cls(root, metadata, table, _fingerprint(table, value))

    @property
    def splits(self) -> list[str]:
        """Returns the names of the splits that hold pictures, sorted."""
        return sorted(set(self.table.column("split").to_pylist()))

    def entries(self, split: str) -> Entries:
        """Returns the split's pictures; empty where the split has none."""
        part = self.table.filter(pc.field("split") == split)
        return Entries(
            root=self.root,
            key=part.column("key").to_pylist(),
            label=part.column("label").to_numpy().astype(np.int64),
            shard=part.column("shard").to_pylist(),
            offset=part.column("offset").to_numpy(),
            length=part.column("length").to_numpy(),
            width=part.column("width").to_numpy().astype(np.int64),
            height=part.column("height").to_numpy().astype(np.int64),
            format=part.column("format").to_pylist(),
        )


def write_index(path: Path, parts: Iterable[pa.Table], metadata: IndexMetadata) -> None:
    """Writes tables of SCHEMA, one behind the other, with `metadata`; equal parts give equal bytes."""
    write_parts(path, parts, INDEX_SCHEMA.with_metadata({METADATA_KEY: metadata.to_bytes()}))


def write_parts(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Writes tables, one behind the other, to a Parquet file, and holds only a few of them at a time."""
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
    digest = hashlib.sha256(metadata)
    for name in INDEX_SCHEMA.names:
        for value in table.column(name).to_pylist():
            digest.update(f"{value}\0".encode())
    return digest.hexdigest()
