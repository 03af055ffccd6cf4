"""The pixels of a decoded picture are those of Caffe's OpenCV, in every format."""

import io
import resource
import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from benchmarks.caffe_results import digest, read_pictures
from shards.format.images import (
    BadPicture,
    convert_to_png,
    decode_picture,
    inspect_picture,
    measure_picture,
    read_member,
    resize_picture,
)
from shards.format.outcomes import Status
from tests import odd_pictures
from tests.programs import ROOT

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


def with_large_header(extension):
    """Return the start of a picture of 30,000x30,000 pixels, for which OpenCV allocates 2.7 GB at first."""
    if extension == ".png":
        return odd_pictures.png(30_000, 30_000, 8, 2, b"")
    body = bytearray(odd_pictures.noise(extension))
    struct.pack_into(">HH", body, body.index(b"\xff\xc0") + 5, 30_000, 30_000)
    return bytes(body)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_too_little_memory_is_not_the_pictures_fault(extension):
    body = with_large_header(extension)
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (0, before[1]))
        # More than the allocator may have kept from earlier tests of this process.
        with pytest.raises(MemoryError, match="Failed to allocate 2700000000 bytes"):
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
    pixels, memory = decode_picture(odd_pictures.noise(".jpg", 40, 64)), np.full((2, 30, 20, 3), 7, np.uint8)
    resize_picture(pixels, 30, 20, out=memory[1])
    np.testing.assert_array_equal(memory[1], resize_picture(pixels, 30, 20))
    assert memory[0].min() == memory[0].max() == 7


def test_decode_is_rgb():
    red = np.zeros((20, 20, 3), np.uint8)
    red[:, :, 2] = 255  # BGR, as OpenCV writes
    assert decode_picture(cv2.imencode(".png", red)[1].tobytes())[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpg_without_its_end_marker_has_the_pixels_of_the_complete_one(orientation):
    complete = odd_pictures.with_orientation(odd_pictures.noise(".jpg", 40, 66), orientation)
    for body in (complete[:-2], complete[:-1]):
        assert measure_picture(body) == measure_picture(complete)
        for read in (decode_picture, inspect_picture, lambda body: read_member(memoryview(body), "jpg")):
            np.testing.assert_array_equal(read(body), decode_picture(complete))


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
