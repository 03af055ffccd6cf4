"""Thumbnails of kept pictures, embedded in the report's page."""

import base64
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from shards.format.images import Pixels
from shards.format.index import INDEX_SCHEMA, LABELS, IndexFile
from shards.format.tar import TarMember, members_of, read_pictures

# In pixels and of JPEG; tried until a thumbnail is small. 320 pixels can be enlarged. WebP takes far longer.
_SIDES_AND_QUALITIES = ((320, 60), (320, 30), (192, 30), (96, 30))
_MAX_BYTES = 12_288


class Thumbnail(NamedTuple):
    """A small copy of a kept picture."""

    uri: str  # a "data:" URI
    width: int  # in pixels
    height: int
    full_width: int  # of the picture in the shards
    full_height: int


def choose_thumbnails(index: IndexFile, per_label: int) -> dict[int, list[int]]:
    """Choose up to `per_label` kept pictures of each label, and return their rows of the list by label.

    A picture with several labels counts for each. Takes those with the smallest sha256: an arbitrary choice that
    doesn't depend on the order of the list.
    """
    chosen: dict[int, list[tuple[str, int]]] = {}  # smallest digests, each with its first row
    has_several = LABELS.name in index.schema.names
    for part in index.read_parts([LABELS.name if has_several else "label", "sha256", "row"]):
        found: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for labels, digest, row in zip(*(column.to_pylist() for column in part.columns), strict=True):
            for label in labels if has_several else (labels,):
                before = chosen.get(label, [])
                if len(before) < per_label or digest <= before[-1][0]:
                    found[label].append((digest, row))
        for label, pictures in found.items():
            first: dict[str, int] = {}
            for digest, row in sorted([*chosen.get(label, ()), *pictures]):
                first.setdefault(digest, row)
            chosen[label] = list(first.items())[:per_label]
    return {label: [row for _, row in pictures] for label, pictures in sorted(chosen.items())}


def make_thumbnails(root: Path, index: IndexFile, rows: Collection[int]) -> dict[int, Thumbnail]:
    """Return thumbnails of the pictures of these rows of the list; skip rows without a picture.

    Raises:
        ShardsError: a picture can't be read.
    """
    columns = ["row", *TarMember._fields]
    chosen = (part.filter(pc.field("row").isin(list(rows))) for part in index.read_parts(columns))
    found = pa.concat_tables([INDEX_SCHEMA.empty_table().select(columns), *chosen])
    pictures = read_pictures(root, members_of(found))
    return {row: _shrink(pixels) for row, pixels in zip(found.column("row").to_pylist(), pictures, strict=True)}


def _shrink(pixels: Pixels) -> Thumbnail:
    height, width, _ = pixels.shape
    body, size = b"", (0, 0)
    for side, quality in _SIDES_AND_QUALITIES:
        scale = min(1.0, side / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), size, interpolation=cv2.INTER_AREA)
        body = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(body) <= _MAX_BYTES:
            break
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(body).decode(), *size, width, height)
