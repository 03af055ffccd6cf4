"""Packs a block's response bodies into a reproducible tar with its index and outcomes parts, and commits them."""

import collections
import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.download.body_slots import StoredBody
from shards.errors import ShardsError
from shards.files import publish_file
from shards.format.images import (
    OPENCV_LIMITS,
    WEB_LIMITS,
    BadPicture,
    SizeLimits,
    convert_to_png,
    detect_format,
    inspect_picture,
    measure_picture,
    resize_picture,
)
from shards.format.index import LABELS, index_schema
from shards.format.outcomes import OUTCOMES_SCHEMA, Outcome, Status
from shards.format.tar import SampleWriter, sample_json
from shards.storage.journal import commit_block, replace_block
from shards.storage.shard_dir import Block, ShardDir, read_part

# Flickr's "photo unavailable" picture, and the file name in redirects to it.
_PLACEHOLDER_SHA1 = "6a92790b1c2a301c6e7ddef645dca1f53ea97ac2"
_PLACEHOLDER_NAME = "photo_unavailable"
_JPEG_QUALITY = 95
_LIST_COLUMNS = ("row", "key", "image_url", "split", "label")  # columns of outcomes.parquet that come from the list
CHECKSUM_COLUMNS = ("sha256", "md5")

# For each row, the outcome of its download, and its response body: a part of a file, a file, or None.
Results: TypeAlias = dict[int, tuple[Outcome, Path | StoredBody | None]]


@dataclasses.dataclass(frozen=True)
class PackJob:
    """The input for packing one block."""

    root: Path  # DIR
    work: Path  # folder for temporary files, on DIR's file system
    block: Block
    rows: list[dict[str, Any]]  # its rows, with the columns of `ROWS_SCHEMA`
    results: Results  # results of the rows; rows of a committed block that are missing here stay as they are
    encode_format: str  # original, pixels or jpg
    image_size: int  # side in pixels of resized pictures
    is_committed: bool = False  # whether the block, or its first rows, are committed; it is replaced then
    is_trusted: bool = False  # the pictures are local files, or of another DIR: all that OpenCV reads is packed

    @classmethod
    def create(
        cls,
        shard_dir: ShardDir,
        block: Block,
        work: Path,
        results: Results,
        *,
        is_committed: bool,
        is_trusted: bool = False,
    ) -> "PackJob":
        """Return the job for a block of DIR with all its rows."""
        root, recipe, rows = shard_dir.root, shard_dir.recipe, shard_dir.rows_of(block)
        return cls(root, work, block, rows, results, recipe.encode_format, recipe.image_size, is_committed, is_trusted)


@dataclasses.dataclass(frozen=True)
class _Member:
    """A picture as stored in the tar."""

    format: str
    body: bytes
    width: int
    height: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class LoadedBlock:
    """A committed block: index entries and outcomes by row, and the path of its tar."""

    entries: dict[int, dict[str, Any]]
    outcomes: dict[int, dict[str, Any]]
    tar: Path

    def member(self, row: int) -> _Member | None:
        """Return the row's stored picture, or None.

        Raises:
            ShardsError: the picture's checksum differs from the index.
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
                "remove the file, and the assemble command makes it again"
            )
        return _Member(entry["format"], body, entry["width"], entry["height"], entry["sha256"])


def pack_block(job: PackJob) -> collections.Counter[Status]:
    """Check a block's response bodies, pack the pictures, commit the block, and count the results by status.

    Tar and index depend only on the bodies and the list, not on attempts or times. If a committed block is replaced, a
    kill at any moment leaves either the complete old or the complete new block.

    Raises:
        ShardsError: a file of the committed block is damaged.
    """
    root, block, results = job.root, job.block, job.results
    old = load_block(root, block) if job.is_committed else LoadedBlock({}, {}, root / block.shard)
    if job.is_committed and not any(body is not None or row in old.entries for row, (_, body) in results.items()):
        outcomes = [
            _outcome_row(row, results[row["row"]][0]) if row["row"] in results else old.outcomes[row["row"]]
            for row in job.rows
        ]
        publish_file(_write_outcomes(outcomes, job), root / block.outcomes_part)
    else:
        outcomes = _pack(job, old)
    return collections.Counter(Status(outcome["status"]) for outcome in outcomes if outcome["row"] in results)


def load_block(root: Path, block: Block) -> LoadedBlock:
    """Read a committed block.

    Raises:
        ShardsError: its index or outcomes part can't be read.
    """
    entries, outcomes = (
        {row["row"]: row for row in read_part(root, name).to_pylist()}
        for name in (block.index_part, block.outcomes_part)
    )
    return LoadedBlock(entries, outcomes, root / block.shard)


def _pack(job: PackJob, old: LoadedBlock) -> list[dict[str, Any]]:
    """Write and commit all three files of the block, and return its outcomes."""
    draft = job.work / "draft.tar"
    entries: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    with draft.open("wb", buffering=2**20) as file, SampleWriter(file) as tar:
        for row in job.rows:
            if row["row"] in job.results:
                outcome, member = _check_body(*job.results[row["row"]], row["extra"], job)
                outcomes.append(_outcome_row(row, outcome))
            else:
                outcomes.append(old.outcomes[row["row"]])
                member = old.member(row["row"])
            if member:
                offsets = tar.write(row["key"], _sample(row, member))
                entries.append(_entry(row, member, job.block, offsets[member.format]))
    index_part = job.work / "index.parquet"
    schema = index_schema(several_labels=LABELS.name in job.rows[0])
    pq.write_table(pa.Table.from_pylist(entries, schema), index_part)
    publish_block = replace_block if job.is_committed else commit_block
    publish_block(job.root, job.block, draft, index_part, _write_outcomes(outcomes, job))
    return outcomes


def to_outcome(row: dict[str, Any]) -> Outcome:
    """Return the outcome in a row of outcomes.parquet."""
    fields: dict[str, Any] = {field.name: row[field.name] for field in dataclasses.fields(Outcome)}
    fields["status"] = Status(fields["status"])
    return Outcome(**fields)


def _outcome_row(row: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    return {name: row[name] for name in _LIST_COLUMNS} | vars(outcome)


def _write_outcomes(outcomes: list[dict[str, Any]], job: PackJob) -> Path:
    path = job.work / "outcomes.parquet"
    pq.write_table(pa.Table.from_pylist(outcomes, OUTCOMES_SCHEMA), path)
    return path


def _check_body(
    download: Outcome, stored: Path | StoredBody | None, extra: str, job: PackJob
) -> tuple[Outcome, _Member | None]:
    """Return a row's final outcome, and the picture to store if it is kept."""
    if stored is None:
        return download, None
    body = stored.read_bytes()
    if job.is_trusted:
        body = _to_stored_format(body)
    sha256 = hashlib.sha256(body).hexdigest()
    outcome = dataclasses.replace(download, bytes=len(body), sha256=sha256, format=detect_format(body))
    if _is_placeholder(body, download.final_url):
        message = "the host's placeholder for a missing picture"
        return dataclasses.replace(outcome, status=Status.PLACEHOLDER, message=message), None
    try:
        limits = OPENCV_LIMITS if job.is_trusted else WEB_LIMITS
        member = _encode(body, sha256, job.encode_format, job.image_size, limits)
    except BadPicture as error:
        return dataclasses.replace(outcome, status=error.status, message=str(error)), None
    mismatch = find_checksum_mismatch(extra, body)
    if mismatch:
        return dataclasses.replace(outcome, status=Status.HASH_MISMATCH, message=mismatch), None
    return outcome, member


def _is_placeholder(body: bytes, final_url: str | None) -> bool:
    url = final_url or ""
    is_named = _PLACEHOLDER_NAME in url and _PLACEHOLDER_NAME in urlsplit(url).path.rpartition("/")[2]
    return is_named or hashlib.sha1(body, usedforsecurity=False).hexdigest() == _PLACEHOLDER_SHA1


def _to_stored_format(body: bytes) -> bytes:
    """Return a picture in a format that no tar has as PNG, and other bytes as they are."""
    return body if detect_format(body) else convert_to_png(body) or body


def _encode(body: bytes, sha256: str, encode_format: str, size: int, limits: SizeLimits = WEB_LIMITS) -> _Member:
    if encode_format == "original":
        kind, width, height = measure_picture(body, limits)
        return _Member(kind, body, width, height, sha256)
    pixels = resize_picture(inspect_picture(body, limits), size)
    if encode_format == "pixels":
        npy = io.BytesIO()
        np.lib.format.write_array(npy, pixels, version=(1, 0), allow_pickle=False)
        stored_as, stored = "npy", npy.getvalue()
    else:
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        stored_as, stored = "jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return _Member(stored_as, stored, size, size, hashlib.sha256(stored).hexdigest())


def _sample(row: dict[str, Any], member: _Member) -> dict[str, bytes]:
    """Return the members of a WebDataset sample: the picture, its label as text, and the list's other columns."""
    return {
        member.format: member.body,
        "cls": str(row["label"]).encode(),
        "json": json.dumps(sample_json(row), sort_keys=True, ensure_ascii=False).encode(),
    }


def _entry(row: dict[str, Any], member: _Member, block: Block, offset: int) -> dict[str, Any]:
    """Return the picture's row of the index."""
    position = {"shard": block.shard, "offset": offset, "length": len(member.body)}
    picture = {name: getattr(member, name) for name in ("width", "height", "format", "sha256")}
    listed = {name: row[name] for name in ("row", "key", "split", "label", LABELS.name) if name in row}
    return listed | position | picture


def find_checksum_mismatch(extra: str, body: bytes) -> str | None:
    """Return, in one line, how a response body differs from the list's checksum, or None.

    `extra` has the row's other columns, as a JSON object; a checksum in it may be missing or empty.
    """
    if not any(f'"{name}"' in extra for name in CHECKSUM_COLUMNS):  # saves parsing for most lists
        return None
    columns = json.loads(extra)
    for name in CHECKSUM_COLUMNS:
        expected = str(columns.get(name) or "").strip().lower()
        if not expected:
            continue
        found = hashlib.new(name, body, usedforsecurity=False).hexdigest()
        if found != expected:
            return f"its {name} is {found}, but the list has {expected[:100]}"
    return None
