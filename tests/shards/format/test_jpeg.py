"""A JPEG may lack its end marker, and nothing more."""

import cv2
import numpy as np
import pytest

from shards.format import jpeg
from tests import odd_pictures

KINDS = {
    "baseline": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    "4:4:4": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
}


def draw(flags, quality=90, number=1) -> bytes:
    picture = odd_pictures.smooth(number, 61, 93)
    picture[40:] = 255  # the flat end takes few bits, so a cut there changes few pixels
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality, *flags])[1].tobytes()


@pytest.mark.parametrize("flags", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("quality", [10, 90, 100])
def test_only_the_end_marker_may_be_missing(flags, quality):
    body = draw(flags, quality)
    assert body.endswith(jpeg.EOI)
    assert jpeg.complete_end(body[:-2]) == body
    assert jpeg.complete_end(body[:-1]) == body
    for cut in (3, 4, 5, 7, 12, 40, len(body) // 2, len(body) - 30, len(body) - 3):
        assert jpeg.complete_end(body[:-cut]) is None, cut


def test_a_download_whose_end_is_zeros_is_not_complete():
    body = draw([])
    half = len(body) // 2
    assert jpeg.complete_end(body[:half] + bytes(len(body) - half)) is None
    assert jpeg.complete_end(body[:-2] + bytes(500)) is None


def test_a_progressive_picture_without_its_last_scans_is_not_complete():
    """libjpeg decodes it without a warning, at a lower quality."""
    body = draw(KINDS["progressive"])
    scans = [position - 2 for marker, position in jpeg._segments(body) if marker == jpeg._SCAN]
    tables = [position - 2 for marker, position in jpeg._segments(body) if marker == 0xC4]
    assert len(scans) > 3
    for scan in scans[1:]:
        cut = max(
            [table for table in tables if table < scan and not any(table < s < scan for s in scans)], default=scan
        )
        assert cv2.imdecode(np.frombuffer(body[:cut] + jpeg.EOI, np.uint8), cv2.IMREAD_COLOR) is not None
        assert jpeg.complete_end(body[:cut]) is None


def test_the_size_is_read_from_the_frame_header():
    assert jpeg.read_size(draw([])) == (93, 61)
    with pytest.raises(ValueError, match="without a frame header"):
        jpeg.read_size(b"\xff\xd8\xff\xe0\x00\x02")
    with pytest.raises(ValueError, match="scan comes before its frame header"):
        jpeg.read_size(b"\xff\xd8\xff\xda\x00\x02")


def test_damaged_headers_are_not_complete():
    body, random = draw([])[:-2], np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(body[: random.integers(3, 700)])
        damaged[random.integers(2, len(damaged))] ^= 1 << random.integers(8)
        assert jpeg.complete_end(bytes(damaged)) is None
