import sys

import cv2
import lmdb
import numpy as np
import pytest

from stylefinetune.caffe.database import Database
from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)  # BGR


def datum(**fields):
    return message_class("Datum")(**fields).SerializeToString()


def raw(label=3, **changes):
    """Return a picture as convert_imageset stores it: channels first."""
    fields = {"channels": 3, "height": 5, "width": 4, "data": PIXELS.transpose(2, 0, 1).tobytes(), "label": label}
    return datum(**{**fields, **changes})


@pytest.fixture
def write(tmp_path):
    def write(entries):
        with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as database, database.begin(write=True) as transaction:
            for key, value in entries.items():
                transaction.put(key.encode(), value)
        return Database(tmp_path / "db")

    return write


def test_pixels_become_pngs_and_files_stay_what_they_are(write):
    jpeg = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    encoded = datum(data=jpeg, label=12345, encoded=True)
    database = write({"00000000_a/b.png": raw(), "00000001_c.jpg": encoded})
    assert list(database.labels()) == [("00000000_a/b.png", 3), ("00000001_c.jpg", 12345)]
    first, second = database.pictures()
    assert np.array_equal(cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR), PIXELS)
    assert second == jpeg
    assert list(database.pictures(1)) == [jpeg]


@pytest.mark.parametrize("label", [0, 1, 127, 128, 2**31 - 1, -1])
def test_labels_of_any_length(write, label):
    database = write({"a": raw(label), "b": datum(label=label, float_data=[1.0, 2.0])})
    assert [found for _, found in database.labels()] == [label, label]


def test_a_missing_label_is_0_as_in_caffe(write):
    assert list(write({"a": datum(channels=3)}).labels()) == [("a", 0)]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (raw(channels=1), "it has 1x5x4 values in 60 bytes; 3 channels of bytes are needed"),
        (raw(width=5), "it has 3x5x5 values in 60 bytes"),
        (
            datum(channels=3, height=1, width=1, float_data=[1.0, 2.0, 3.0]),
            "it has 3x1x1 values of real numbers in 0 bytes",
        ),
        (b"\xff\xff\xff", "the value isn't one of Caffe's Datum messages"),
    ],
)
def test_a_value_that_is_no_picture_is_named(write, value, line):
    with pytest.raises(UserError, match=f"db, key k: {line}"):
        list(write({"k": value}).pictures())


@pytest.mark.parametrize("value", [b"\x22\x7fabc", b"\x0b", b"\x28", b"\x25ab", b"\xff" * 11])
def test_a_damaged_value_has_no_label(write, value):
    with pytest.raises(UserError, match="db, key k: the value isn't one of Caffe's Datum messages"):
        list(write({"k": value}).labels())


def test_the_version_changes_with_the_database(write):
    before = write({"a": raw()}).version()
    after = write({f"{n}": raw() for n in range(2000)}).version()
    assert after != before


def test_other_folders_are_one_line(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=r"isn't an LMDB database: data\.mdb can't be read"):
            list(Database(path).labels())
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="can't be read as an LMDB database"):
        list(Database(tmp_path).labels())


def test_a_missing_package_is_one_line(write, monkeypatch):
    database = write({"a": raw()})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"the package lmdb isn't installed; run: pip install 'stylefinetune\[lmdb\]'"):
        list(database.labels())
