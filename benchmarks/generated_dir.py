"""Generates large inputs for benchmarks: a list, an index, tars, and a directory whose blocks are committed."""

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.config.recipe import Recipe
from shards.format.index import INDEX_FILE, INDEX_SCHEMA, IndexMetadata, write_index
from shards.format.outcomes import OUTCOMES_SCHEMA
from shards.format.tar import SampleWriter
from shards.storage.shard_dir import Block, create_shard_dir
from shards.url_list.parse import ROWS_SCHEMA

_PART = 100_000  # rows that are generated together
_BLOCK = 1000  # rows of a tar
_PLACE = 1024  # bytes between two pictures in a tar with holes
_CLASSES = tuple(map(str, range(20)))
_TIME = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def write_list(path: Path, rows: int) -> None:
    """Write a list of `rows` URLs of 5,000 hosts and about 65 bytes."""
    with path.open("w") as file:
        file.write("image_url,label\n")
        for row in range(rows):
            file.write(f"{_url_of(row)},{row % 20}\n")


def write_large_index(path: Path, rows: int) -> None:
    """Write an index of `rows` pictures in tars of 1,000."""

    def part(start: int) -> pa.Table:
        row = np.arange(start, min(rows, start + _PART))
        same = np.full(len(row), 500)
        text = pa.array(row).cast(pa.string())
        names = {name: pa.array([value] * len(row)) for name, value in {"split": "train", "format": "jpg"}.items()}
        shards = pa.array([f"train/{number // 1000:05d}.tar" for number in row.tolist()])
        digests = pa.array([f"{number:064x}" for number in row.tolist()])
        columns = {name: pa.array(same) for name in ("length", "width", "height")} | names
        columns |= {"row": pa.array(row), "key": text, "label": pa.array(row % 20), "offset": pa.array(row * 512)}
        columns |= {"shard": shards, "sha256": digests}
        return pa.table([columns[name] for name in INDEX_SCHEMA.names], INDEX_SCHEMA.names).cast(INDEX_SCHEMA)

    metadata = IndexMetadata(_CLASSES, "original", 0, "0" * 64, 831486)
    write_index(path, map(part, range(0, rows, _PART)), metadata)


def write_tars(root: Path, counts: Mapping[str, int], picture: Callable[[int], bytes] | None, side: int) -> None:
    """Write tars and their index.

    Args:
        root: DIR.
        counts: number of pictures by tar, such as train/00000.tar.
        picture: returns the JPEG of a row, of `side` x `side` pixels; without it, the tars are empty.
        side: of the pictures in pixels.
    """
    same = {"width": side, "height": side, "format": "jpg"}
    rows: list[dict[str, Any]] = []
    for name, count in counts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("wb") as file, SampleWriter(file) as tar:
            for row in range(len(rows), len(rows) + count):
                key, body, offset = f"{row:09d}", b"", 0
                if picture:
                    body = picture(row)
                    offset = tar.write(key, {"jpg": body})["jpg"]
                place = {"split": Path(name).parent.name, "shard": name, "offset": offset, "length": len(body)}
                facts = {"row": row, "key": key, "label": row % 20, "sha256": hashlib.sha256(body).hexdigest()}
                rows.append(same | place | facts)
    metadata = IndexMetadata(_CLASSES, "original", 0, "", 0)
    write_index(root / INDEX_FILE, [pa.Table.from_pylist(rows, INDEX_SCHEMA)], metadata)


def write_dir(root: Path, rows: int, *, has_holes: bool) -> None:
    """Write a directory of `rows` rows, the last fifth in the split test, without index.parquet and outcomes.parquet.

    Nine of ten rows are kept, and one of 50 has the picture of the row before. With `has_holes`, only the first tar of
    each split has pictures, and the hashes are not those of the pictures.
    """
    recipe = Recipe("0" * 64, -1, 831486, None, 0.2, "original", 0, _BLOCK, classes=_CLASSES)
    work = root / "work"
    work.mkdir(parents=True)
    reader = pa.RecordBatchReader.from_batches(ROWS_SCHEMA, _list_rows(rows))
    shard_dir = create_shard_dir(root, recipe, reader, work)
    work.rmdir()
    for block in shard_dir.blocks():
        _write_block(root, block, shard_dir.rows_of(block), has_holes=has_holes)


def _url_of(row: int) -> str:
    return f"http://pictures{row % 5000}.example.com/albums/{row * 7919 % 1_000_003}/{row:08d}_large.jpg"


def _list_rows(count: int) -> Iterator[pa.RecordBatch]:
    train = count * 4 // 5
    for start in range(0, count, _PART):
        rows = range(start, min(count, start + _PART))
        columns: dict[str, list[Any]] = {"row": list(rows), "key": [str(row) for row in rows]}
        columns |= {"image_url": [_url_of(row) for row in rows], "label": [row % 20 for row in rows]}
        columns |= {"split": ["train" if row < train else "test" for row in rows]}
        columns |= {"extra": [json.dumps({"owner": f"owner{row * 31 % (count // 20 + 1)}"}) for row in rows]}
        yield from pa.table(columns).select(ROWS_SCHEMA.names).cast(ROWS_SCHEMA).to_batches()


def _write_block(root: Path, block: Block, rows: list[dict[str, Any]], *, has_holes: bool) -> None:
    """Write a block's three files."""
    path = root / block.shard
    path.parent.mkdir(exist_ok=True)
    kept = [row for row in rows if row["row"] % 10 != 7]
    if not has_holes:
        bodies = {row["row"]: _draw(row["row"]) for row in kept}
        digests = {row: hashlib.sha256(body).hexdigest() for row, body in bodies.items()}
        offsets = _write_tar(path, kept, bodies)
    else:
        bodies = {row["row"]: b"\0" * 300 for row in kept}
        digests = {row["row"]: f"{_picture_of(row['row']):064x}" for row in kept}
        offsets = {row["row"]: place * _PLACE for place, row in enumerate(kept)}
        with path.open("wb") as file:
            for row in kept if block.number == 0 else ():
                bodies[row["row"]] = _draw(row["row"])
                file.seek(offsets[row["row"]])
                file.write(bodies[row["row"]])
            file.truncate(len(kept) * _PLACE)
    same = {"shard": block.shard, "width": 8, "height": 8, "format": "png"}
    listed = ("row", "key", "split", "label")
    entries = [
        {name: row[name] for name in listed}
        | same
        | {"offset": offsets[row["row"]], "length": len(bodies[row["row"]]), "sha256": digests[row["row"]]}
        for row in kept
    ]
    outcomes = [
        {name: row[name] for name in (*listed, "image_url")}
        | {"attempts": 1, "seconds": 0.1, "time": _TIME, "message": "" if row["row"] in bodies else "404"}
        | {"status": "kept" if row["row"] in bodies else "not_found", "sha256": digests.get(row["row"])}
        | {"bytes": len(bodies[row["row"]]) if row["row"] in bodies else None}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(entries, INDEX_SCHEMA), root / block.index_part)
    pq.write_table(pa.Table.from_pylist(outcomes, OUTCOMES_SCHEMA), root / block.outcomes_part)


def _write_tar(path: Path, rows: list[dict[str, Any]], bodies: dict[int, bytes]) -> dict[int, int]:
    """Write a tar as the assembly does, and return the offset of each row's picture."""
    offsets: dict[int, int] = {}
    with path.open("wb") as file, SampleWriter(file) as writer:
        for row in rows:
            extra = json.dumps({"image_url": row["image_url"]} | json.loads(row["extra"]), sort_keys=True)
            members = {"png": bodies[row["row"]], "cls": str(row["label"]).encode(), "json": extra.encode()}
            offsets[row["row"]] = writer.write(row["key"], members)["png"]
    return offsets


def _picture_of(row: int) -> int:
    return row - (row % 50 == 49)


def _draw(row: int) -> bytes:
    """Return a picture of 8 x 8 pixels that is different for each picture."""
    pixels = np.random.default_rng(_picture_of(row)).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()
