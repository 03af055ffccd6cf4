"""Reads a WebDataset tar once: checks and hashes the picture of each sample, and reads its label and metadata."""

import dataclasses
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from shards.assembly.pack import CHECKSUM_COLUMNS
from shards.errors import ShardsError
from shards.files import publish_file
from shards.format.images import OPENCV_LIMITS, PICTURE_EXTENSIONS, BadPicture, measure_picture
from shards.format.outcomes import Status
from shards.format.tar import group_by_keys
from shards.url_list.convert import label_list, scalar_text
from shards.url_list.labels import UNLABELLED

LabelFrom = Literal["cls", "json", "txt", "folder", "none"]

SCAN_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # webdataset's key
        pa.field("image_url", pa.string(), nullable=False),  # from the JSON, or the names of the tar and the member
        pa.field("label", pa.string(), nullable=False),  # the first, if the JSON has a list of labels
        pa.field("labels", pa.list_(pa.string())),  # this list; null for a single label
        pa.field("extra", pa.string(), nullable=False),  # the JSON and the text, as a JSON object
        pa.field("status", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # 0 for a bad picture
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string()),  # null for a bad picture
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
WARNING_KEY = b"warning"  # in the schema's metadata
_BATCH_ROWS = 1_000
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
    b"\x04\x22M\x18": "lz4",
}
_URL_KEYS = ("image_url", "url")  # of the JSON


@dataclasses.dataclass(frozen=True)
class ScanRules:
    """Where a sample's label and picture are.

    Attributes:
        label_from: the member or path that has the label.
        label_key: key of the JSON member, with dots for objects in it.
        picture_ext: extension of the picture; None for the only one of a picture's.
    """

    label_from: LabelFrom = "cls"
    label_key: str | None = None
    picture_ext: str | None = None


def scan_tar(path: Path, rules: ScanRules, target: Path) -> None:
    """Write a row of `SCAN_SCHEMA` for each sample with a picture, in the tar's order, to a Parquet file.

    Raises:
        ShardsError: it is no tar, or compressed; or a sample has no label, or several pictures.
    """
    draft = target.with_suffix(".draft")
    with path.open("rb") as file:
        _refuse_compressed(file.read(8), path)
        file.seek(0)
        scan = _TarScan(file, path, rules)
        with pq.ParquetWriter(draft, SCAN_SCHEMA) as writer:
            rows: list[dict[str, Any]] = []
            for row in scan.rows():
                rows.append(row)
                if len(rows) >= _BATCH_ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, SCAN_SCHEMA))
                    rows.clear()
            writer.write_table(pa.Table.from_pylist(rows, SCAN_SCHEMA))
            writer.add_key_value_metadata({WARNING_KEY: scan.warning().encode()})
    publish_file(draft, target)


def _refuse_compressed(head: bytes, path: Path) -> None:
    for magic, name in _COMPRESSIONS.items():
        if head.startswith(magic):
            raise ShardsError(
                f"{path} is compressed with {name}, so its pictures can't be read in place; decompress it first"
            )


class _TarScan:
    """The samples of an open tar."""

    def __init__(self, file: BinaryIO, path: Path, rules: ScanRules) -> None:
        self._file = file
        self._path = path
        self._rules = rules
        self._damage = ""
        self._without_picture = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row of `SCAN_SCHEMA` for each sample with a picture."""
        members = (
            {"fname": member.name.removeprefix("./"), "data": member, "__url__": ""} for member in self._members()
        )
        try:
            for sample in group_by_keys(members):
                key = sample.pop("__key__")
                found = {name: value for name, value in sample.items() if isinstance(value, tarfile.TarInfo)}
                picture = self._choose_picture(key, found)
                if picture is None:
                    self._without_picture += 1
                else:
                    yield self._describe(key, found, picture)
        except ShardsError:
            raise
        except ValueError as error:  # webdataset's, for a name that is there twice
            raise ShardsError(f"{self._path}: {error.args[0]}; write the tar again") from error

    def warning(self) -> str:
        """Return what was skipped, in one line, or an empty text."""
        skipped = f"{self._without_picture:,} samples without a picture were skipped" if self._without_picture else ""
        return "; ".join(filter(None, [self._damage, skipped]))

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the regular files, and stop at the first damaged header."""
        last = "its start"
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                while member := tar.next():
                    tar.members.clear()  # type: ignore[attr-defined] # else all headers would stay in memory
                    if member.isreg() and not Path(member.name).name.startswith("."):
                        yield member
                    last = member.name
                if self._read(tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):
                    self._damage = f"it is damaged after {last}; what follows was skipped"
        except (tarfile.TarError, EOFError, OSError) as error:
            if last == "its start":
                raise ShardsError(
                    f"{self._path} can't be read as a tar: {error}; make it again or remove it"
                ) from error
            self._damage = f"it is cut or damaged after {last} ({error}); what follows was skipped"

    def _choose_picture(self, key: str, found: dict[str, tarfile.TarInfo]) -> str | None:
        """Return the extension of the picture, without dots in it if there is one such, or None."""
        wanted = self._rules.picture_ext
        if wanted is not None:
            return wanted if wanted in found else None
        pictures = [extension for extension in found if extension.rpartition(".")[2] in PICTURE_EXTENSIONS]
        pictures = [extension for extension in pictures if "." not in extension] or pictures
        if len(pictures) > 1:
            names = ", ".join(found[extension].name for extension in pictures)
            raise ShardsError(
                f"{self._path}: the sample {key} has several pictures, {names[:200]}; choose one with --picture_ext "
                f"{pictures[0]} (a key ends at its first dot)"
            )
        return pictures[0] if pictures else None

    def _describe(self, key: str, found: dict[str, tarfile.TarInfo], extension: str) -> dict[str, Any]:
        member = found[extension]
        columns = self._read_json(found)
        labels = self._read_labels(key, found, columns)
        for name in CHECKSUM_COLUMNS:  # of the file as it was downloaded, which the picture need not be
            columns.pop(name, None)
        if "txt" in found:
            columns.setdefault("txt", self._read_member(found["txt"]).decode(errors="replace"))
        urls = [columns.pop(name) for name in _URL_KEYS if isinstance(columns.get(name), str)]
        picture = self._check_picture(member)
        return picture | {
            "id": _to_utf8(key.replace("/", "_")),
            "image_url": _to_utf8(urls[0] if urls else f"{self._path.name}/{member.name}"),
            "label": labels if isinstance(labels, str) else labels[0],
            "labels": None if isinstance(labels, str) else labels,
            "extra": _to_utf8(json.dumps(columns, sort_keys=True, ensure_ascii=False)),
        }

    def _check_picture(self, member: tarfile.TarInfo) -> dict[str, Any]:
        """Return the columns that describe the picture."""
        is_sparse = member.issparse()  # its bytes aren't stored in one piece
        body = b"" if is_sparse else self._read_member(member)
        row: dict[str, Any] = {"offset": member.offset_data, "length": len(body), "width": 0, "height": 0}
        row |= {"sha256": hashlib.sha256(body).hexdigest(), "status": str(Status.KEPT), "message": "", "format": None}
        if is_sparse:
            return row | {"status": str(Status.CORRUPT), "message": "a sparse member, which isn't stored in one piece"}
        if len(body) < member.size:
            message = f"the tar ends after {len(body)} of its {member.size} bytes"
            return row | {"status": str(Status.CORRUPT), "message": message}
        try:
            row["format"], row["width"], row["height"] = measure_picture(body, OPENCV_LIMITS)
        except BadPicture as error:
            row |= {"status": str(error.status), "message": str(error)}
        return row

    def _read_json(self, found: dict[str, tarfile.TarInfo]) -> dict[str, Any]:
        if "json" not in found:
            return {}
        try:
            value = json.loads(self._read_member(found["json"]))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _read_labels(self, key: str, found: dict[str, tarfile.TarInfo], columns: dict[str, Any]) -> str | list[str]:
        """Return the label of a sample, or the list of its labels if its JSON has one."""
        source = self._rules.label_from
        readers: dict[str, Callable[[], Any]] = {
            "none": lambda: UNLABELLED,
            "folder": lambda: key.rpartition("/")[0].rpartition("/")[2] or self._path.absolute().parent.name,
            "json": lambda: _find_value(columns, self._rules.label_key or ""),
        }
        read = readers.get(source, lambda: self._read_text(found.get(source)))
        try:
            value = read()
            labels = label_list(value, None) if isinstance(value, list) else scalar_text(value)
        except (TypeError, UnicodeDecodeError) as error:
            raise ShardsError(f"{self._path}: the sample {key} has no usable label: {error}") from error
        if labels and all(labels):
            return _to_utf8(labels) if isinstance(labels, str) else list(map(_to_utf8, labels))
        place = f"label {self._rules.label_key} in its JSON" if source == "json" else source
        names = f"{', '.join(found)[:100]}; JSON keys: {', '.join(columns)[:200] or 'none'}"
        raise ShardsError(
            f"{self._path}: the sample {key} has no {place} (it has {names}); give --label_key KEY, --label_from cls, "
            "txt or folder, or --label_from none for pictures without labels"
        )

    def _read_text(self, member: tarfile.TarInfo | None) -> str:
        return self._read_member(member).decode() if member else ""

    def _read_member(self, member: tarfile.TarInfo) -> bytes:
        return self._read(member.offset_data, member.size)

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)


def _find_value(columns: dict[str, Any], key: str) -> Any:  # noqa: ANN401 -- any JSON value
    """Return the value of a key, or of a.b, the key b of the object at a; None if there is none."""
    if key in columns or "." not in key:
        return columns.get(key)
    first, _, rest = key.partition(".")
    inner = columns.get(first)
    return _find_value(inner, rest) if isinstance(inner, dict) else None


def _to_utf8(text: str) -> str:
    return text.encode(errors="replace").decode()
