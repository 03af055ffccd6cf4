"""A DIR with random outcomes, written without a download: for tests at the size of the real list."""

import datetime as dt
import hashlib
import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.format import index, outcomes
from shards.format.index import write_index
from shards.storage import shard_dir
from shards.url_list.parse import ROWS_SCHEMA
from tests.programs import ROOT
from tests.recipes import make_recipe

OFFICIAL = ROOT.parent / "shared" / "data" / "flickr_style.csv.gz"
BEGAN = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
# Rows per thousand; all others are kept.
SHARES = {"not_found": 160, "gone": 25, "forbidden": 12, "placeholder": 55, "timeout": 30, "server_error": 8}
SHARES |= {"dns": 5, "corrupt": 4, "not_an_image": 9, "too_small": 2, "noai": 6}


def write_dir(
    root: Path,
    rows: pa.Table,
    classes: tuple[str, ...],
    pictures: list[np.ndarray],
    done_fraction: float = 1.0,
    sha_of=lambda row: hashlib.sha256(str(row).encode()).hexdigest(),
    message="why it failed",
) -> None:
    """Write a DIR of `rows` (ROWS_SCHEMA) in which each kept row has one of the RGB `pictures`, as JPEG."""
    work = root / ".work"
    work.mkdir(parents=True)
    recipe = make_recipe(classes=classes)
    shard_dir.create_shard_dir(root, recipe, rows.to_reader(), work)
    stored_at = write_tar(root / "train" / "00000.tar", pictures)
    random = np.random.default_rng(0)
    names = [*SHARES, "kept"]
    bounds = np.cumsum(list(SHARES.values())) / 1000
    draws = np.searchsorted(bounds, random.random(len(rows)))
    entries, outcome_rows = [], []
    for number, (row, draw) in enumerate(zip(rows.to_pylist(), draws.tolist(), strict=True)):
        if number >= done_fraction * len(rows):
            break
        status = names[draw]
        offset, length, width, height = stored_at[int(random.integers(len(stored_at)))]
        digest = sha_of(row["row"]) if status == "kept" else "ef" * 32 if status == "placeholder" else None
        size = {"kept": length, "placeholder": 2051}.get(status)
        line = {name: row[name] for name in ("row", "key", "image_url", "split", "label")}
        outcome_rows.append(
            line
            | {"status": status, "http_status": 200 if size else None, "attempts": 1, "bytes": size, "seconds": 0.2}
            | {"sha256": digest, "time": BEGAN + dt.timedelta(milliseconds=20 * number)}
            | {"message": "" if status == "kept" else message}
        )
        if status == "kept":
            line.pop("image_url")
            stored = {"shard": "train/00000.tar", "offset": offset, "length": length, "width": width}
            entries.append(line | stored | {"height": height, "format": "jpg", "sha256": digest})
    metadata = recipe.index_metadata
    write_index(root / index.INDEX_FILE, [pa.Table.from_pylist(entries, index.INDEX_SCHEMA)], metadata)
    pq.write_table(pa.Table.from_pylist(outcome_rows, outcomes.OUTCOMES_SCHEMA), root / outcomes.OUTCOMES_FILE)
    work.rmdir()


def write_tar(path: Path, pictures: list[np.ndarray]) -> list[tuple[int, int, int, int]]:
    """Write the pictures as JPEG and return offset, length, width and height of each."""
    path.parent.mkdir()
    sizes = []
    with tarfile.open(path, "w") as tar:
        for number, pixels in enumerate(pictures):
            body = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
            sizes.append((len(body), pixels.shape[1], pixels.shape[0]))
    with tarfile.open(path) as tar:
        offsets = [member.offset_data for member in tar]
    return [(offset, *size) for offset, size in zip(offsets, sizes, strict=True)]


def index_of(root: Path, pictures: list[np.ndarray]) -> pa.Table:
    """Write the RGB pictures into one tar of DIR and return their index (INDEX_SCHEMA)."""
    stored_at = write_tar(root / "train" / "00000.tar", pictures)
    common = {"split": "train", "label": 0, "shard": "train/00000.tar", "format": "jpg"}
    entries = [
        common
        | dict(zip(("offset", "length", "width", "height"), position, strict=True))
        | {"row": row, "key": f"k{row}", "sha256": f"{row:064d}"}
        for row, position in enumerate(stored_at)
    ]
    return pa.Table.from_pylist(entries, index.INDEX_SCHEMA)


def draw_photo(number: int, height: int = 240, width: int = 360) -> np.ndarray:
    """Draw an RGB picture whose amplitudes fall as 1 over the frequency, as in photographs."""
    random = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal((height, width))) / frequency**1.1, s=(height, width))
    grey = 128 + 50 * noise / noise.std()
    tint = random.uniform(0.6, 1, 3)
    return np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)


def rows_from(lines: list[dict]) -> pa.Table:
    """Return a table of ROWS_SCHEMA; missing fields get default values."""
    filled = [
        {"row": number, "key": f"k{number}", "split": "train", "label": 0, "extra": "{}"} | line
        for number, line in enumerate(lines)
    ]
    return pa.Table.from_pylist(filled, ROWS_SCHEMA)
