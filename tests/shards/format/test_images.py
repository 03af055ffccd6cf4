"""Formats and sizes are read from the bytes, and damaged and hostile bytes are refused."""

import io
import re
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest

from shards.format.images import (
    OPENCV_LIMITS,
    BadPicture,
    decode_picture,
    detect_format,
    inspect_picture,
    measure_picture,
    npy_header,
    read_member,
)
from shards.format.outcomes import Status
from tests import odd_pictures
from tests.programs import run


def png_of_size(width: int, height: int) -> bytes:
    return odd_pictures.png(width, height, 8, 2, bytes((1 + 3 * width) * height))


def test_the_npy_header_is_numpys():
    body = io.BytesIO()
    np.save(body, np.zeros((40, 7, 3), np.uint8))
    assert body.getvalue() == npy_header(40, 7) + bytes(40 * 7 * 3)


def test_the_size_is_that_after_exif_orientation(golden):
    pixels = inspect_picture((golden / "preproc" / "images" / "exif_orient6_360x240.jpg").read_bytes())
    assert pixels.shape == (360, 240, 3)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "gif"])
def test_the_format_is_detected_from_the_bytes(kind):
    body = odd_pictures.noise(f".{kind}")
    assert detect_format(body) == kind
    assert measure_picture(body) == (kind, 64, 40)
    assert inspect_picture(body).shape == (40, 64, 3)


def test_lossless_webp_is_kept():
    picture = cv2.imencode(".webp", np.full((33, 47, 3), 9, np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert picture[12:16] == b"VP8L"
    assert inspect_picture(picture).shape == (33, 47, 3)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "gif"])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
def test_a_cut_picture_is_corrupt(kind, fraction):
    body = odd_pictures.noise(f".{kind}", 400, 640)
    with pytest.raises(BadPicture) as caught:
        inspect_picture(body[: max(18, int(len(body) * fraction))])
    assert caught.value.status is Status.CORRUPT
    with pytest.raises(BadPicture, match=re.escape(str(caught.value))):
        measure_picture(body[: max(18, int(len(body) * fraction))])


def test_a_png_for_apple_has_its_own_cause():
    standard = odd_pictures.noise(".png")
    with pytest.raises(BadPicture, match="png in Apple's CgBI variant") as caught:
        measure_picture(standard[:8] + b"\0\0\0\4CgBI\x50\0\x20\x02\x2b\xd5\xb3\x7f" + standard[8:])
    assert caught.value.status is Status.CORRUPT
    with pytest.raises(BadPicture, match="begins with a chunk b'IDAT'"):
        measure_picture(standard[:12] + b"IDAT" + standard[16:])


def test_opencvs_own_limits_of_a_size():
    small = odd_pictures.noise(".png", 8, 8)
    with pytest.raises(BadPicture, match="8x8 is under 16 pixels a side"):
        measure_picture(small)
    assert measure_picture(small, OPENCV_LIMITS) == ("png", 8, 8)
    with pytest.raises(BadPicture, match=r"is over 1,073,741,824 pixels"):
        measure_picture(odd_pictures.png(40000, 30000, 8, 2, b""), OPENCV_LIMITS)


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])
def test_measuring_agrees_with_decoding_on_damaged_jpgs(flags):
    random = np.random.default_rng(3)
    pixels = cv2.resize(random.integers(0, 256, (9, 13, 3), np.uint8), (211, 140))
    intact = cv2.imencode(".jpg", pixels, flags)[1].tobytes()
    refused = 0
    for _ in range(200):
        body = bytearray(intact)
        for position in random.integers(2, len(body), random.integers(1, 20)):
            body[position] ^= 1 << random.integers(8)
        if random.random() < 0.3:
            del body[random.integers(2, len(body)) :]
        expected = result_of(inspect_size, bytes(body))
        refused += expected is None
        assert result_of(measure_picture, bytes(body)) == expected
    assert 20 < refused < 180


@pytest.mark.parametrize("size", [(64, 64), (66, 70), (70, 66), (16, 300)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_measuring_a_rotated_picture_gives_its_final_size(size, orientation):
    body = odd_pictures.with_orientation(odd_pictures.noise(".jpg", *size), orientation)
    assert measure_picture(body) == inspect_size(body)


def inspect_size(body):
    height, width, _ = inspect_picture(body).shape
    return detect_format(body), width, height


def result_of(check, body):
    try:
        return check(body)
    except BadPicture:
        return None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", Status.NOT_AN_IMAGE),
        (b"<!DOCTYPE html><html></html>", Status.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Status.NOT_AN_IMAGE),
        (b"BMW is no bitmap, nor is this text", Status.NOT_AN_IMAGE),
        (b"\xff\xd8\xff" + b"\xff" * 100, Status.CORRUPT),
        (b"\xff\xd8\xff\xe0\x00\x00" * 100, Status.CORRUPT),
        (zlib.compress(b"x" * 100, wbits=31), Status.BAD_ENCODING),
        (png_of_size(15, 400), Status.TOO_SMALL),
        (odd_pictures.noise(".jpg", 16, 16), None),
        (png_of_size(16, 16), None),
    ],
)
def test_each_refusal_has_its_status(body, status):
    if status is None:
        inspect_picture(body)
        return
    with pytest.raises(BadPicture) as caught:
        inspect_picture(body)
    assert caught.value.status is status
    assert "\n" not in str(caught.value)


def test_formats_of_local_files_are_named():
    tiff = odd_pictures.encode(".tif", np.zeros((20, 30, 3), np.uint8))
    for body, name in ((tiff, "TIFF"), (b"MM\0*" + tiff[4:], "TIFF"), (b"\0\0\0\x1cftypavif" + bytes(90), "AVIF")):
        with pytest.raises(BadPicture, match=f"{name}, which is damaged or not from a local file") as caught:
            measure_picture(body)
        assert caught.value.status is Status.NOT_AN_IMAGE


def test_a_decompression_bomb_is_refused_by_its_header():
    # There are no pixels after this header: decoding it would give "corrupt".
    bomb = png_of_size(1, 1)
    bomb = bomb[:16] + struct.pack(">II", 30000, 30000) + bomb[24:]
    with pytest.raises(BadPicture) as caught:
        inspect_picture(bomb)
    assert caught.value.status is Status.TOO_MANY_PIXELS


def test_a_decompression_bomb_takes_no_memory():
    code = (
        "import resource\nfrom shards.format.images import BadPicture, inspect_picture\n"
        "from tests.odd_pictures import bomb\n"
        "body = bomb()\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    inspect_picture(body)\nexcept BadPicture as error:\n    print(error.status)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = run(sys.executable, "-c", code)
    status, grown = done.stdout.split()
    assert status == "too_many_pixels"
    assert int(grown) < 50_000  # KiB; the compressed pixels take 110,000, the decoded ones 2,700,000


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def test_npy_member_is_a_view_of_the_bytes():
    array = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    body = bytearray(npy_bytes(array))
    pixels = read_member(memoryview(body), "npy")
    np.testing.assert_array_equal(pixels, array)
    body[-1] = 200
    assert pixels[-1, -1, -1] == 200


def test_other_members_are_decoded():
    body = odd_pictures.noise(".png")
    np.testing.assert_array_equal(read_member(body, "png"), decode_picture(body))


@pytest.mark.parametrize(
    "body",
    [
        npy_bytes(np.array([[[None, 1, 2]]], dtype=object)),  # it could only be unpickled
        npy_bytes(np.zeros((4, 4), np.uint8)),
        npy_bytes(np.zeros((4, 4, 3), np.float32)),
        npy_bytes(np.asfortranarray(np.zeros((4, 4, 3), np.uint8))),
        npy_bytes(np.zeros((4, 4, 3), np.uint8))[:-1],
        b"",
        b"\x93NUMPY",
        b"not npy at all",
    ],
)
def test_an_npy_that_is_not_a_picture_is_corrupt(body):
    with pytest.raises(BadPicture) as caught:
        read_member(body, "npy")
    assert caught.value.status is Status.CORRUPT
