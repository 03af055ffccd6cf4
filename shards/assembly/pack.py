"""A block's bodies, and what it has already -> one reproducible tar, index part and ledger part, committed."""

import collections
import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardsError
from shards.files import publish_file
from shards.format.images import BadPicture, detect_format, inspect_picture, measure_picture, resize_picture
from shards.format.index import INDEX_SCHEMA
from shards.format.outcomes import OUTCOMES_SCHEMA, Outcome, Status
from shards.format.tar import SampleWriter
from shards.storage.journal import commit_block, replace_block
from shards.storage.shard_dir import Block, read_part

# Flickr's "photo unavailable" picture, and what a redirect to it is called.
_PLACEHOLDER_SHA1 = "6a92790b1c2a301c6e7ddef645dca1f53ea97ac2"
_PLACEHOLDER_NAME = "photo_unavailable"
_JPEG_QUALITY = 95
_COMMON = ("row", "key", "image_url", "split", "label")  # what the ledger has of a list's row


@dataclasses.dataclass(frozen=True)
class PackJob:
    """Everything that packing one block needs.

    Attributes:
        root: DIR.
        work: a folder for temporary files, of DIR's file system; bodies that lie in it are removed as they are read.
        block: which block.
        rows: its rows, each with the columns of `urls.ROWS_SCHEMA`.
        arrivals: by row, what the download came to, and the file of its body where one came; of a block that is
            committed, a row that isn't here stays what it is.
        encode_format: original, pixels or jpg.
        image_size: side in pixels of resized pictures.
        is_committed: whether the block is committed already, if only for its first rows; it is replaced then.
    """

    root: Path
    work: Path
    block: Block
    rows: list[dict[str, Any]]
    arrivals: dict[int, tuple[Outcome, Path | None]]
    encode_format: str
    image_size: int
    is_committed: bool = False


@dataclasses.dataclass(frozen=True)
class _Member:
    """A picture as it goes into the tar."""

    format: str
    body: bytes
    width: int
    height: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class LoadedBlock:
    """What a committed block has, by row: its part of the index, its part of the ledger, and its tar."""

    entries: dict[int, dict[str, Any]]
    ledger: dict[int, dict[str, Any]]
    tar: Path

    def member(self, row: int) -> _Member | None:
        """Returns the row's picture as it is stored, where it has one.

        Raises:
            ShardsError: these are other bytes than the index says.
        """
        entry = self.entries.get(row)
        if entry is None:
            return None
        with self.tar.open("rb") as file:
            file.seek(entry["offset"])
            body = file.read(entry["length"])
        if hashlib.sha256(body).hexdigest() != entry["sha256"]:
            raise ShardsError(
                f"{self.tar} is damaged at the picture {entry['key']}; "
                "remove it, and the assemble command makes its block again"
            )
        return _Member(entry["format"], body, entry["width"], entry["height"], entry["sha256"])


def pack_block(packing: PackJob) -> collections.Counter[Status]:
    """Checks a block's bodies, packs what is kept, commits the block, and returns how many arrivals came to what.

    Tar and index hold nothing but what follows from the bodies and the list, so that equal bodies make equal files,
    however often and whenever they were asked for. Where a block is committed already, a kill at any moment leaves
    all that it had or all that it is to have.

    Raises:
        ShardsError: a file of the committed block is damaged.
    """
    root, block = packing.root, packing.block
    held = load_block(root, block) if packing.is_committed else LoadedBlock({}, {}, root / block.shard)
    if packing.is_committed and not _touches_pictures(packing, held):
        ledger = [
            _line(row, packing.arrivals[row["row"]][0]) if row["row"] in packing.arrivals else held.ledger[row["row"]]
            for row in packing.rows
        ]
        publish_file(_write_ledger(ledger, packing), root / block.outcomes_part)
    else:
        ledger = _pack(packing, held)
    return collections.Counter(Status(line["status"]) for line in ledger if line["row"] in packing.arrivals)


def load_block(root: Path, block: Block) -> LoadedBlock:
    """Reads what a committed block has.

    Raises:
        ShardsError: a part can't be read.
    """
    entries, ledger = (
        {line["row"]: line for line in read_part(root, name).to_pylist()}
        for name in (block.index_part, block.outcomes_part)
    )
    return LoadedBlock(entries, ledger, root / block.shard)


def _touches_pictures(packing: PackJob, held: LoadedBlock) -> bool:
    return any(body is not None or row in held.entries for row, (_, body) in packing.arrivals.items())


def _pack(packing: PackJob, held: LoadedBlock) -> list[dict[str, Any]]:
    """Writes and commits all three files of the block, and returns its part of the ledger."""
    draft = packing.work / "draft.tar"
    entries: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    with draft.open("wb") as file, SampleWriter(file) as tar:
        for row in packing.rows:
            if row["row"] in packing.arrivals:
                outcome, member = _judge(*packing.arrivals[row["row"]], row["extra"], packing)
                ledger.append(_line(row, outcome))
            else:
                ledger.append(held.ledger[row["row"]])
                member = held.member(row["row"])
            if member:
                places = tar.write(row["key"], _sample(row, member))
                entries.append(_entry(row, member, packing.block) | {"offset": places[member.format]})
    index_part = packing.work / "index.parquet"
    pq.write_table(pa.Table.from_pylist(entries, INDEX_SCHEMA), index_part)
    put = replace_block if packing.is_committed else commit_block
    put(packing.root, packing.block, draft, index_part, _write_ledger(ledger, packing))
    return ledger


def _line(row: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    return {name: row[name] for name in _COMMON} | vars(outcome)


def _write_ledger(ledger: list[dict[str, Any]], packing: PackJob) -> Path:
    path = packing.work / "outcomes.parquet"
    pq.write_table(pa.Table.from_pylist(ledger, OUTCOMES_SCHEMA), path)
    return path


def _judge(arrival: Outcome, body_path: Path | None, extra: str, packing: PackJob) -> tuple[Outcome, _Member | None]:
    """Says what a row came to in the end, and gives the picture to store where there is one."""
    if body_path is None:
        return arrival, None
    body = body_path.read_bytes()
    if body_path.parent == packing.work:  # a download, which isn't needed again; a list's local picture stays
        body_path.unlink()  # before it has been written to the disk, if all goes quickly
    sha256 = hashlib.sha256(body).hexdigest()
    outcome = dataclasses.replace(arrival, bytes=len(body), sha256=sha256, format=detect_format(body))
    if _is_placeholder(body, arrival.final_url):
        return dataclasses.replace(
            outcome, status=Status.PLACEHOLDER, message="what the host shows for a lost picture"
        ), None
    try:
        member = _encode(body, sha256, packing.encode_format, packing.image_size)
    except BadPicture as error:
        return dataclasses.replace(outcome, status=error.status, message=str(error)), None
    mismatch = find_checksum_mismatch(extra, body)
    if mismatch:
        return dataclasses.replace(outcome, status=Status.HASH_MISMATCH, message=mismatch), None
    return outcome, member


def _is_placeholder(body: bytes, final_url: str | None) -> bool:
    file_name = urlsplit(final_url or "").path.rpartition("/")[2]
    return _PLACEHOLDER_NAME in file_name or hashlib.sha1(body, usedforsecurity=False).hexdigest() == _PLACEHOLDER_SHA1


def _encode(body: bytes, sha256: str, encode_format: str, size: int) -> _Member:
    if encode_format == "original":
        kind, width, height = measure_picture(body)
        return _Member(kind, body, width, height, sha256)
    pixels = resize_picture(inspect_picture(body).pixels, size)
    if encode_format == "pixels":
        npy = io.BytesIO()
        np.lib.format.write_array(npy, pixels, version=(1, 0), allow_pickle=False)
        stored_as, stored = "npy", npy.getvalue()
    else:
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        stored_as, stored = "jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return _Member(stored_as, stored, size, size, hashlib.sha256(stored).hexdigest())


def _sample(row: dict[str, Any], member: _Member) -> dict[str, bytes]:
    """Returns the members of a WebDataset sample: the picture, its label as text, and the list's further columns."""
    further = {"image_url": row["image_url"]} | json.loads(row["extra"])
    return {
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
        "sha256": member.sha256,
    }


CHECKSUM_COLUMNS = ("sha256", "md5")


def find_checksum_mismatch(extra: str, body: bytes) -> str | None:
    """Says in one line how a body differs from what the list promises, or None.

    Args:
        extra: the row's further columns, as a JSON object; a hash may be missing or empty.
        body: as it came.
    """
    if not any(f'"{name}"' in extra for name in CHECKSUM_COLUMNS):  # as for most lists
        return None
    columns = json.loads(extra)
    for name in CHECKSUM_COLUMNS:
        expected = str(columns.get(name) or "").strip().lower()
        if not expected:
            continue
        found = hashlib.new(name, body, usedforsecurity=False).hexdigest()
        if found != expected:
            return f"its {name} is {found}, where the list has {expected[:100]}"
    return None
