import cv2
import numpy as np
import pytest

from shards.format.index import ShardIndex
from stylefinetune.prediction.pictures import (
    NoPicture,
    PictureFile,
    PictureUrl,
    ShardPicture,
    UnreadablePicture,
    is_web_url,
    picture_at,
)
from tests import odd_pictures

pytestmark = pytest.mark.xdist_group("prediction")  # with the other tests that read shards


def test_a_file_is_decoded_as_opencv_does(album):
    for path in album.paths():
        np.testing.assert_array_equal(PictureFile(path).read(), cv2.imread(path)[..., ::-1])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "can't be read: No such file or directory"),
        (b"hello", "is not a picture that OpenCV reads: begins with b'hello'"),
        (b"", "is empty"),
        (b"\x1f\x8b" + bytes(40), "is not a picture that OpenCV reads: still gzip-compressed"),
        (
            b"\0\0\0\x18ftypheic" + bytes(40),
            "is not a picture that OpenCV reads: HEIC, which OpenCV doesn't read",
        ),
        (odd_pictures.encode(".jpg", odd_pictures.smooth(1))[:-40], "is damaged or unsupported: doesn't decode"),
        (b"GIF89a", "is damaged or unsupported: gif cut within its header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + bytes(40), "is damaged or unsupported: png in Apple's CgBI variant"),
        (odd_pictures.png(40000, 30000, 8, 2, b""), "is too large: 40000x30000 is over 1,073,741,824 pixels; make it"),
        (b"P6 60000 60000 255\n" + bytes(99), "is too large: OpenCV reads at most 1,048,576 pixels a side and 1,073"),
    ],
)
def test_the_reason_is_named(tmp_path, body, reason):
    if body is not None:
        (tmp_path / "x").write_bytes(body)
    with pytest.raises(UnreadablePicture) as raised:
        PictureFile(str(tmp_path / "x")).read()
    assert str(raised.value).startswith(reason)


def test_a_name_that_no_file_can_have_is_a_reason():
    with pytest.raises(UnreadablePicture, match="can't be read: embedded null"):
        PictureFile("a\0b").read()


def test_a_response_must_be_a_picture_of_the_web_of_limited_size():
    url = PictureUrl("http://host/a.png")
    picture = odd_pictures.smooth(2)
    np.testing.assert_array_equal(url.decode(odd_pictures.encode(".png", picture)), picture[..., ::-1])
    for body, reason in [
        (odd_pictures.bomb(), "^is too large: 30000x30000 is over 50,000,000 pixels; make it smaller$"),
        (
            odd_pictures.encode(".tif", picture),
            "is not a JPEG, PNG, GIF, WebP or BMP: TIFF, which is damaged or not from a local file",
        ),
        (b"<html>", "begins with b'<html>'"),
    ]:
        with pytest.raises(UnreadablePicture, match=reason):
            url.decode(body)


def test_a_picture_of_a_shard_has_its_tar_and_key_as_name(pixel_shards, tmp_path):
    entries = ShardIndex.load(pixel_shards).entries("test")
    picture = ShardPicture(entries, 3)
    assert picture.name == f"{pixel_shards / 'test' / '00000.tar'}: {entries.key[3]}"
    assert picture.read().shape == (48, 48, 3)
    gone = ShardPicture(ShardIndex.load(pixel_shards).entries("test"), 0)
    object.__setattr__(gone.entries, "root", tmp_path)
    with pytest.raises(UnreadablePicture, match="can't be read: No such file"):
        gone.read()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "00000.tar").write_bytes(bytes(100_000))
    with pytest.raises(UnreadablePicture, match=rf"^is damaged: not an npy file: .*; see: shards verify {tmp_path}$"):
        gone.read()


def test_what_is_no_picture_says_so():
    with pytest.raises(UnreadablePicture, match=r"^matches no file$"):
        NoPicture("x*", "matches no file").read()


def test_a_location_is_a_url_or_a_path_relative_to_a_folder(tmp_path):
    assert is_web_url("HTTPS://host/a")
    assert not is_web_url("s3://bucket/a")
    assert picture_at("https://host/a.jpg", tmp_path) == PictureUrl("https://host/a.jpg")
    assert picture_at("a.jpg", tmp_path) == PictureFile(str(tmp_path / "a.jpg"))
    assert picture_at("/b/a.jpg", tmp_path) == PictureFile("/b/a.jpg")
