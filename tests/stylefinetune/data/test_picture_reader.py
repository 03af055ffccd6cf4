import io
import os

import numpy as np
import pyarrow as pa
import pytest

from shards.format.columns import Names, Texts
from shards.format.images import decode_picture, resize_picture
from shards.format.index import Entries
from stylefinetune.data.picture_reader import PictureReader
from stylefinetune.errors import DataError, UserError
from tests.odd_pictures import encode, smooth


def npy(pixels, version=(1, 0)):
    body = io.BytesIO()
    np.lib.format.write_array(body, pixels, version=version)
    return body.getvalue()


def write_shard(folder, bodies, formats):
    """Write bodies one after the other, with a gap before each, as in a tar."""
    offsets = np.cumsum([0, *(len(body) + 512 for body in bodies)])[:-1] + 512
    (folder / "a.tar").write_bytes(b"".join(bytes(512) + body for body in bodies))
    count = len(bodies)
    return Entries(
        root=folder,
        key=Texts(pa.chunked_array([[f"key{number}" for number in range(count)]])),
        label=np.zeros(count, np.int64),
        shard=Names(["a.tar"], np.zeros(count, np.int8)),
        offset=offsets,
        length=np.array([len(body) for body in bodies]),
        width=np.zeros(count, np.int64),
        height=np.zeros(count, np.int64),
        format=Names.join([pa.array(formats)]),
    )


def read(entries, size=(20, 30)):
    """Read all pictures into memory that has the pixels of others."""
    pictures = np.full((len(entries.key), *size, 3), 99, np.uint8)
    return PictureReader(entries, size, None).read(np.arange(len(entries.key)), pictures), pictures


def test_stored_pixels_and_encoded_pictures_are_read_into_the_given_memory(tmp_path):
    pixels = [smooth(number, 20, 30) for number in range(3)]
    exact, larger = encode(".png", pixels[2]), encode(".jpg", smooth(3))
    entries = write_shard(tmp_path, [npy(pixels[0]), npy(pixels[1]), exact, larger], ["npy", "npy", "png", "jpg"])
    corrupt, pictures = read(entries)
    assert corrupt == []
    expected = [*pixels[:2], decode_picture(exact), resize_picture(decode_picture(larger), 20, 30)]
    np.testing.assert_array_equal(pictures, expected)


@pytest.mark.parametrize(
    "body",
    [
        npy(smooth(0, 20, 30), version=(2, 0)),
        npy(np.asfortranarray(smooth(0, 20, 30))),
        npy(smooth(0, 20, 30).astype(np.int8)),
        npy(smooth(0, 20, 30))[:-1],
        b"\0" * len(npy(smooth(0, 20, 30))),
    ],
    ids=["version 2", "Fortran order", "int8", "short", "zeros"],
)
def test_a_damaged_member_of_pixels_becomes_black(tmp_path, body):
    entries = write_shard(tmp_path, [npy(smooth(1, 20, 30)), body, npy(smooth(2, 20, 30))], ["npy"] * 3)
    corrupt, pictures = read(entries)
    assert corrupt == [1]
    np.testing.assert_array_equal(pictures, [smooth(1, 20, 30), np.zeros((20, 30, 3)), smooth(2, 20, 30)])


def test_pixels_of_another_shape_are_refused_even_if_they_are_as_many(tmp_path):
    entries = write_shard(tmp_path, [npy(smooth(0, 30, 20))], ["npy"])
    with pytest.raises(UserError, match=r"a\.tar: key0 is stored as 30x20 pixels; set data\.image_size to that"):
        read(entries)


def test_a_picture_that_is_no_npy_may_be_as_long_as_one(tmp_path):
    png = encode(".png", smooth(0, 20, 30))
    padded = png + bytes(len(npy(smooth(0, 20, 30))) - len(png))
    _, pictures = read(write_shard(tmp_path, [padded], ["png"]))
    np.testing.assert_array_equal(pictures[0], decode_picture(png))


def test_a_damaged_encoded_picture_leaves_nothing_of_the_previous_ones(tmp_path):
    jpg = encode(".jpg", smooth(0))
    corrupt, pictures = read(write_shard(tmp_path, [jpg, jpg[: len(jpg) // 2]], ["jpg", "jpg"]))
    assert corrupt == [1]
    assert pictures[1].max() == 0


@pytest.mark.parametrize("kind", ["npy", "jpg"])
def test_a_truncated_shard_is_a_data_error(tmp_path, kind):
    body = npy(smooth(0, 20, 30)) if kind == "npy" else encode(".jpg", smooth(0))
    entries = write_shard(tmp_path, [body], [kind])
    os.truncate(tmp_path / "a.tar", 512 + len(body) - 1)
    with pytest.raises(DataError, match=r"key0 can't be read \(the shard has become shorter than the index says\)"):
        read(entries)


def test_too_many_open_files_have_their_own_remedy(tmp_path, monkeypatch):
    entries = write_shard(tmp_path, [encode(".jpg", smooth(0))], ["jpg"])

    def fail(*_):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(DataError, match=r"\(Too many open files\); raise the limit of open files \(ulimit -n\)"):
        read(entries)
