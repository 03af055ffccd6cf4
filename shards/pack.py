"""A block's bodies -> one reproducible tar with its part of the index and of the ledger, committed."""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import images, index, outcomes
from shards.blocks import Block, publish, retract
from shards.images import BadPicture, Picture
from shards.outcomes import Outcome, Status

# Flickr's "photo unavailable" picture, and what a redirect to it is called.
_PLACEHOLDER_SHA1 = "6a92790b1c2a301c6e7ddef645dca1f53ea97ac2"
_PLACEHOLDER_NAME = "photo_unavailable"
_JPEG_QUALITY = 95
_COMMON = ("row", "key", "image_url", "split", "label")  # what the ledger has of a list's row


@dataclasses.dataclass(frozen=True)
class Packing:
    """Everything that packing one block needs.

    Attributes:
        root: DIR.
        work: a folder for temporary files, of DIR's file system.
        block: which block.
        rows: its rows, each with the columns of `urls.ROWS_SCHEMA`.
        arrivals: for each row what the download came to, and the file of its body where one came.
        encode_format: original, pixels or jpg.
        image_size: side in pixels of resized pictures.
    """

    root: Path
    work: Path
    block: Block
    rows: list[dict[str, Any]]
    arrivals: list[tuple[Outcome, Path | None]]
    encode_format: str
    image_size: int


@dataclasses.dataclass(frozen=True)
class _Member:
    """A picture as it goes into the tar."""

    format: str
    body: bytes
    width: int
    height: int


def pack_block(packing: Packing) -> collections.Counter[Status]:
    """Checks a block's bodies, packs what is kept, commits the block, and returns how many rows came to what.

    Tar and index hold nothing but what follows from the bodies and the list, so that equal bodies make equal files,
    however often and whenever they were asked for.
    """
    draft = packing.work / "draft.tar"
    entries: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    with draft.open("wb") as file, _tar_writer()(file, encoder=False, mtime=0, user="", group="") as tar:
        for row, (arrival, body_path) in zip(packing.rows, packing.arrivals, strict=True):
            outcome, member = _judge(arrival, body_path, packing)
            ledger.append({name: row[name] for name in _COMMON} | dataclasses.asdict(outcome))
            if member:
                tar.write(_sample(row, member))
                entries.append(_entry(row, member, packing.block))
    offsets = _scan(draft)
    for entry in entries:
        entry["offset"] = offsets[f"{entry['key']}.{entry['format']}"]
    pq.write_table(pa.Table.from_pylist(entries, index.SCHEMA), packing.work / "index.parquet")
    pq.write_table(pa.Table.from_pylist(ledger, outcomes.SCHEMA), packing.work / "outcomes.parquet")
    # Of a block that lost a file its commit may be left, which must not come to stand for a half of the new files.
    retract(packing.root / packing.block.outcomes_part)
    publish(draft, packing.root / packing.block.shard)
    publish(packing.work / "index.parquet", packing.root / packing.block.index_part)
    publish(packing.work / "outcomes.parquet", packing.root / packing.block.outcomes_part)
    return collections.Counter(Status(row["status"]) for row in ledger)


def _judge(arrival: Outcome, body_path: Path | None, packing: Packing) -> tuple[Outcome, _Member | None]:
    """Says what a row came to in the end, and gives the picture to store where there is one."""
    if body_path is None:
        return arrival, None
    body = body_path.read_bytes()
    outcome = dataclasses.replace(arrival, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    if _is_placeholder(body, arrival.final_url):
        return dataclasses.replace(
            outcome, status=Status.PLACEHOLDER, message="what the host shows for a lost picture"
        ), None
    try:
        member = _encode(body, images.inspect(body), packing.encode_format, packing.image_size)
    except BadPicture as error:
        return dataclasses.replace(outcome, status=error.status, message=str(error)), None
    return outcome, member


def _is_placeholder(body: bytes, final_url: str | None) -> bool:
    file_name = urlsplit(final_url or "").path.rpartition("/")[2]
    return _PLACEHOLDER_NAME in file_name or hashlib.sha1(body, usedforsecurity=False).hexdigest() == _PLACEHOLDER_SHA1


def _encode(body: bytes, picture: Picture, encode_format: str, size: int) -> _Member:
    if encode_format == "original":
        height, width, _ = picture.pixels.shape
        return _Member(picture.format, body, width, height)
    pixels = images.resize(picture.pixels, size)
    if encode_format == "pixels":
        npy = io.BytesIO()
        np.lib.format.write_array(npy, pixels, version=(1, 0), allow_pickle=False)
        return _Member("npy", npy.getvalue(), size, size)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, jpg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return _Member("jpg", jpg.tobytes(), size, size)


def _sample(row: dict[str, Any], member: _Member) -> dict[str, Any]:
    """Returns a WebDataset sample: the picture, its label as text, and the list's further columns."""
    further = {"image_url": row["image_url"]} | json.loads(row["extra"])
    return {
        "__key__": row["key"],
        member.format: member.body,
        "cls": str(row["label"]).encode(),
        "json": json.dumps(further, sort_keys=True, ensure_ascii=False).encode(),
    }


def _entry(row: dict[str, Any], member: _Member, block: Block) -> dict[str, Any]:
    """Returns the picture's row of the index, but for its offset."""
    return {name: row[name] for name in ("row", "key", "split", "label")} | {
        "shard": block.shard,
        "length": len(member.body),
        "width": member.width,
        "height": member.height,
        "format": member.format,
        "sha256": hashlib.sha256(member.body).hexdigest(),
    }


def _scan(path: Path) -> dict[str, int]:
    """Returns where each member's bytes begin, as the finished tar has it."""
    with tarfile.open(path, "r:") as tar:
        return {member.name: member.offset_data for member in tar}


@functools.cache
def _tar_writer() -> Any:  # noqa: ANN401 - webdataset ships no types
    """Imports webdataset's TarWriter without torch: 2.5 s and 500 MB that packing has no use for."""
    absent = object()
    torch = sys.modules.get("torch", absent)
    if torch is absent:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType] -- Python's own way to make an import fail
    try:
        from webdataset.writer import TarWriter  # noqa: PLC0415 - see above
    finally:
        if torch is absent:
            del sys.modules["torch"]
    return TarWriter
