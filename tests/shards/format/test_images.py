"""Pictures are compared with Caffe's pixels, and damaged and hostile bytes are refused."""

import io
import re
import resource
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from benchmarks.caffe_results import digest, read_pictures
from shards.format.images import (
    OPENCV_LIMITS,
    BadPicture,
    convert_to_png,
    decode_picture,
    detect_format,
    inspect_picture,
    measure_picture,
    npy_header,
    read_member,
    resize_picture,
)
from shards.format.outcomes import Status
from tests import odd_pictures
from tests.programs import ROOT, run

FULL_GOLDEN = ROOT.parent / "shared" / "golden"  # with two pictures that can't be redistributed
NAMES = [
    "cmyk_320x214.jpg",
    "exact_256x256.jpg",
    "exif_orient6_360x240.jpg",
    "gray_400x300.jpg",
    "half_512x512.jpg",
    "j1_640x480_q90_420.jpg",
    "j2_300x500_q95_444.jpg",
    "j3_1024x400_q75_422.jpg",
    "j4_150x111_q85_small.jpg",
    "j5_333x777_q80_progressive.jpg",
]


OTHER_FORMATS = [".ppm", ".tif", ".jp2", ".avif", ".hdr", ".sr", ".pfm"]  # that OpenCV reads and the web seldom has


def encode(extension: str, height: int = 40, width: int = 64) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(extension, picture)[1].tobytes()


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * width) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_too_little_memory_is_not_the_pictures_fault(extension):
    body = encode(extension, 4000, 4000)
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (0, before[1]))
        with pytest.raises(MemoryError, match="Failed to allocate 48000000 bytes"):
            decode_picture(body)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def assert_pixels_are_caffes(folder, name):
    listed = (folder / "preproc" / "list.txt").read_text().splitlines()
    index = [line.rsplit(" ", 1)[0] for line in listed].index(f"images/{name}")
    ours = resize_picture(inspect_picture((folder / "preproc" / "images" / name).read_bytes()), 256)
    assert digest(ours[:, :, ::-1].transpose(2, 0, 1)) == read_pictures(folder)[0][index]


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_bitwise_caffes(golden, name):
    assert_pixels_are_caffes(golden, name)


@pytest.mark.parametrize("name", ["cat.jpg", "fish-bike.jpg"])
def test_pixels_of_caffes_own_pictures_are_bitwise_caffes(name):
    if not FULL_GOLDEN.is_dir():
        pytest.skip(f"Caffe's own pictures aren't here: no {FULL_GOLDEN}")
    assert_pixels_are_caffes(FULL_GOLDEN, name)


def pil(picture, kind, **options):
    body = io.BytesIO()
    picture.save(body, kind, **options)
    return body.getvalue()


def jpgs(picture):
    """Yield a picture as JPEGs of all kinds: sampling, scans, restarts, grey, RGB, CMYK, YCCK, orientations, cut."""
    pixels = np.asarray(picture)
    for quality in (30, 90, 100):
        for subsampling in ("444", "422", "440", "420", "411"):
            yield simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling=subsampling)
        for options in ({"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}):
            yield pil(picture, "JPEG", quality=quality, **options)
        yield pil(picture.convert("L"), "JPEG", quality=quality)
        yield pil(picture.convert("CMYK"), "JPEG", quality=quality)
        ycck = simplejpeg.encode_jpeg(np.asarray(picture.convert("CMYK")), quality=quality, colorspace="CMYK")
        assert ycck[ycck.index(b"Adobe") + 11] == 2  # the transform YCCK
        yield ycck
    for orientation in range(1, 9):
        for subsampling in (0, 2):
            yield odd_pictures.with_orientation(pil(picture, "JPEG", subsampling=subsampling), orientation)
    yield pil(picture, "JPEG")[:-2]  # without its end marker
    yield pil(picture, "JPEG")[:-40]


def other_pictures(picture):
    """Yield a picture in the other formats, with all their depths, palettes and kinds of transparency."""
    pixels = np.asarray(picture)
    alpha = np.dstack([pixels, pixels[:, :, :1] ^ 85])
    deep = pixels.astype(np.uint16) * 257 ^ 1234
    turned = Image.Exif()
    turned[0x0112] = 6
    for mode in ("RGB", "L", "1", "P", "LA"):
        yield pil(picture.convert(mode), "PNG")
    for bits in (1, 2, 4):
        yield pil(picture.quantize(2**bits), "PNG", bits=bits)
    for deep_pixels in (deep, deep[:, :, 0], np.dstack([deep, deep[:, :, :1]])):
        yield cv2.imencode(".png", deep_pixels)[1].tobytes()
    yield pil(picture, "PNG", exif=turned)
    yield pil(picture, "PNG", transparency=tuple(pixels[0, 0].tolist()))
    yield pil(picture.quantize(16), "PNG", transparency=0)
    for lossless in (False, True):
        for either in (picture, Image.fromarray(alpha)):
            yield pil(either, "WEBP", lossless=lossless, exif=turned)
    for options in ({}, {"transparency": 0}, {"interlace": 1}):
        yield pil(picture.quantize(16), "GIF", **options)
    for mode in ("RGB", "L", "1", "P"):
        yield pil(picture.convert(mode), "BMP")
    yield from (pil(Image.fromarray(alpha), kind) for kind in ("PNG", "BMP"))
    if min(pixels.shape[:2]) > 32:  # JPEG 2000 can't be smaller
        yield from (odd_pictures.encode(extension, pixels) for extension in OTHER_FORMATS)


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 47), (64, 64)])
@pytest.mark.parametrize("kinds", [jpgs, other_pictures], ids=["jpg", "other formats"])
def test_pixels_are_those_of_caffes_flag_with_the_channels_reversed(kinds, size):
    """`decode_picture` has OpenCV decode to RGB; Caffe decodes to BGR."""
    noise = np.random.default_rng(0).integers(-30, 31, (*size, 3))
    picture = Image.fromarray(np.clip(odd_pictures.smooth(1, *size) + noise, 0, 255).astype(np.uint8))
    for body in kinds(picture):
        bgr = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB) is None
        else:
            np.testing.assert_array_equal(decode_picture(body), bgr[:, :, ::-1])


@pytest.mark.parametrize("extension", [".webp", ".gif"])
def test_the_first_frame_of_an_animation_is_that_of_caffes_flag(extension):
    body = odd_pictures.animation(extension)
    bgr = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_picture(body), bgr[:, :, ::-1])


def test_a_picture_can_be_resized_into_given_memory():
    pixels, memory = decode_picture(encode(".jpg", 40, 64)), np.full((2, 30, 20, 3), 7, np.uint8)
    resize_picture(pixels, 30, 20, out=memory[1])
    np.testing.assert_array_equal(memory[1], resize_picture(pixels, 30, 20))
    assert memory[0].min() == memory[0].max() == 7


def test_the_npy_header_is_numpys():
    body = io.BytesIO()
    np.save(body, np.zeros((40, 7, 3), np.uint8))
    assert body.getvalue() == npy_header(40, 7) + bytes(40 * 7 * 3)


def test_decode_is_rgb():
    red = np.zeros((20, 20, 3), np.uint8)
    red[:, :, 2] = 255  # BGR, as OpenCV writes
    assert decode_picture(cv2.imencode(".png", red)[1].tobytes())[0, 0].tolist() == [255, 0, 0]


def test_the_size_is_that_after_exif_orientation(golden):
    pixels = inspect_picture((golden / "preproc" / "images" / "exif_orient6_360x240.jpg").read_bytes())
    assert pixels.shape == (360, 240, 3)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "gif"])
def test_the_format_is_detected_from_the_bytes(kind):
    body = encode(f".{kind}")
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
    body = encode(f".{kind}", 400, 640)
    with pytest.raises(BadPicture) as caught:
        inspect_picture(body[: max(18, int(len(body) * fraction))])
    assert caught.value.status is Status.CORRUPT
    with pytest.raises(BadPicture, match=re.escape(str(caught.value))):
        measure_picture(body[: max(18, int(len(body) * fraction))])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpg_without_its_end_marker_has_the_pixels_of_the_complete_one(orientation):
    complete = odd_pictures.with_orientation(encode(".jpg", 40, 66), orientation)
    for body in (complete[:-2], complete[:-1]):
        assert measure_picture(body) == measure_picture(complete)
        for read in (decode_picture, inspect_picture, lambda body: read_member(memoryview(body), "jpg")):
            np.testing.assert_array_equal(read(body), decode_picture(complete))


def test_a_png_for_apple_has_its_own_cause():
    standard = encode(".png")
    with pytest.raises(BadPicture, match="png in Apple's CgBI variant") as caught:
        measure_picture(standard[:8] + b"\0\0\0\4CgBI\x50\0\x20\x02\x2b\xd5\xb3\x7f" + standard[8:])
    assert caught.value.status is Status.CORRUPT
    with pytest.raises(BadPicture, match="begins with a chunk b'IDAT'"):
        measure_picture(standard[:12] + b"IDAT" + standard[16:])


@pytest.mark.parametrize("extension", OTHER_FORMATS)
def test_other_formats_of_opencv_are_converted_without_loss(extension, tmp_path):
    picture = odd_pictures.smooth(4)
    body = odd_pictures.encode(
        extension, picture.astype(np.float32) / 255 if extension in {".hdr", ".pfm"} else picture
    )
    (tmp_path / "file").write_bytes(body)
    with pytest.raises(BadPicture) as caught:
        measure_picture(body)
    assert caught.value.status is Status.NOT_AN_IMAGE
    converted = convert_to_png(body)
    np.testing.assert_array_equal(decode_picture(converted)[:, :, ::-1], cv2.imread(str(tmp_path / "file")))
    assert convert_to_png(body[:100]) is None


def test_opencvs_own_limits_of_a_size():
    small = encode(".png", 8, 8)
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
    body = odd_pictures.with_orientation(encode(".jpg", *size), orientation)
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
        (encode(".jpg", 16, 16), None),
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


# The upright picture from the stored one, for each orientation (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(orientation):
    stored = odd_pictures.encode(".jpg", odd_pictures.smooth(3))
    upright = inspect_picture(odd_pictures.with_orientation(stored, orientation))
    np.testing.assert_array_equal(upright, UPRIGHT[orientation](decode_picture(stored)))


def test_a_palette_becomes_colours_and_transparency_is_dropped():
    pixels = inspect_picture(odd_pictures.palette_png())
    assert [pixels[0, column].tolist() for column in (0, 8, 16)] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_grey_becomes_three_equal_channels(extension):
    grey = odd_pictures.smooth(4)[:, :, 0]
    pixels = inspect_picture(odd_pictures.encode(extension, grey))
    assert pixels.shape == (60, 90, 3)
    assert np.ptp(pixels.astype(int), axis=2).max() == 0
    assert np.abs(pixels[:, :, 0].astype(int) - grey).mean() < 3


def test_sixteen_bits_become_eight():
    eight = odd_pictures.smooth(5)
    pixels = inspect_picture(odd_pictures.encode(".png", eight.astype(np.uint16) * 256))
    np.testing.assert_array_equal(pixels, eight[:, :, ::-1])


@pytest.mark.parametrize("extension", [".gif", ".webp"])
def test_an_animation_gives_its_first_frame(extension):
    pixels = inspect_picture(odd_pictures.animation(extension))
    assert pixels.shape == (40, 64, 3)
    assert pixels.mean() < 50  # the second frame's is 200


def npy_bytes(array: np.ndarray) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
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
    body = encode(".png")
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
