import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.format.images import decode_picture
from shards.format.index import IndexFile
from shards.format.tar import members_of, read_pictures
from shards.report import near_duplicates
from shards.report.near_duplicates import (
    BITS,
    NEAR_DUPLICATE_BITS,
    PictureHashes,
    hash_picture,
    hash_pictures,
    nearest,
)
from tests.programs import ROOT

PICTURES = ("j1_640x480_q90_420", "j2_300x500_q95_444", "j3_1024x400_q75_422", "j5_333x777_q80_progressive")


def load(name):
    return decode_picture((ROOT / "tests" / "golden" / "preproc" / "images" / f"{name}.jpg").read_bytes())


def as_jpg(pixels, quality):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


pack = PictureHashes.pack

COPIES = {
    "encoded again": lambda pixels: as_jpg(pixels, 30),
    "a third of the size": lambda pixels: cv2.resize(pixels, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA),
    "a square": lambda pixels: cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_LINEAR),
    "grey": lambda pixels: cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "brighter": lambda pixels: cv2.add(pixels, (15, 15, 15, 0)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_near_its_original_and_no_other_picture(copy):
    originals = np.array([hash_picture(load(name)) for name in PICTURES])
    copies = np.array([hash_picture(np.ascontiguousarray(copy(load(name)))) for name in PICTURES])
    positions, distances = nearest(pack(copies), pack(originals))
    assert positions.tolist() == [0, 1, 2, 3]
    assert distances.max() <= NEAR_DUPLICATE_BITS
    _, between = nearest(pack(copies[:2]), pack(originals[2:]))
    assert between.min() > 3 * NEAR_DUPLICATE_BITS


def test_bits_are_stored_packed():
    bits = np.random.default_rng(0).choice(np.float32([-1, 1]), (5, BITS))
    bits[3] = 0
    hashes = pack(bits)
    assert hashes.packed.nbytes == 5 * BITS // 8
    assert (hashes.unpack(0, 5) == bits).all()
    assert (hashes.select(np.array([3, 1])).unpack(0, 9) == bits[[3, 1]]).all()


@pytest.mark.parametrize("others_at_once", [7, 40, 65_536])
def test_distances_are_hamming_distances_and_the_first_of_several_is_returned(others_at_once, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_OTHERS", others_at_once)
    rng = np.random.default_rng(0)
    queries, others = (rng.choice(np.float32([-1, 1]), (count, BITS)) for count in (700, 90))
    others[40] = others[12] = queries[600]
    positions, distances = nearest(pack(queries), pack(others))
    true = (queries[:, None] != others[None]).sum(-1)
    assert (positions == true.argmin(1)).all()
    assert (distances == true.min(1)).all()
    assert (positions[600], distances[600]) == (12, 0)


def test_a_picture_without_texture_is_near_no_other():
    flat = np.full((40, 60, 3), 200, np.uint8)
    hashes = np.array([hash_picture(flat), hash_picture(load(PICTURES[0]))])
    assert nearest(pack(hashes[:1]), pack(hashes))[1].tolist() == [BITS]
    assert nearest(pack(hashes[1:]), pack(hashes[:1]))[1].min() > NEAR_DUPLICATE_BITS


def test_without_other_pictures_nothing_is_near():
    nothing = np.zeros((0, BITS), np.float32)
    assert nearest(pack(np.ones((2, BITS), np.float32)), pack(nothing))[1].tolist() == [BITS, BITS]


def test_pictures_are_hashed_in_the_order_of_the_index(original_shards):
    members = members_of(pq.read_table(original_shards / "index.parquet"))
    expected = [hash_picture(pixels) for pixels in read_pictures(original_shards, members)]
    found = hash_pictures(original_shards, IndexFile(original_shards))
    assert (found.unpack(0, len(found)) == np.array(expected)).all()
