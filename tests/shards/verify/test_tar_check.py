import hashlib
import io
import json
import tarfile

import cv2
import numpy as np
import pytest

from shards.assembly import pack
from shards.config.recipe import Recipe
from shards.storage.shard_dir import Block
from shards.verify.tar_check import Difference, check_tar
from tests.recipes import make_recipe

ROWS = [
    {"row": number, "key": f"k{number}", "image_url": f"http://h/{number}", "split": "train", "label": number}
    | {"extra": json.dumps({"title": f"é {number}"})}
    for number in range(3)
]


def recipe(encode_format: str) -> Recipe:
    size = 0 if encode_format == "original" else 32
    return make_recipe(encode_format=encode_format, image_size=size)


@pytest.fixture
def write_tar(tmp_path, draw_jpg):
    """Writes a tar of ROWS, after `change` of its members, and returns its path and its rows of the index."""

    def write(encode_format: str = "original", change=lambda members: members):
        path, entries, members = tmp_path / "00000.tar", [], []
        for row in ROWS:
            jpg = draw_jpg(row["row"])
            member = pack._encode(jpg, hashlib.sha256(jpg).hexdigest(), encode_format, 32)
            entries.append(pack._entry(row, member, Block("train", 0), offset=0))
            sample = pack._sample(row, member)
            members += [(f"{row['key']}.{part}", sample[part]) for part in sample]
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, body in change(members):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        with tarfile.open(path) as tar:
            offsets = {member.name: member.offset_data for member in tar}
        for entry in entries:
            entry["offset"] = offsets.get(f"{entry['key']}.{entry['format']}", 0)
        return path, entries

    return write


def check(path, entries, encode_format: str = "original") -> list[str]:
    return [str(difference) for difference in check_tar(path, "t.tar", entries, ROWS, recipe(encode_format))]


def test_a_difference_is_one_line():
    assert str(Difference("a.tar", "k", "cls", "1", "x\ny")) == "a.tar, k: cls: expected 1, found x y"
    assert str(Difference("a.tar", "", "file", "present", "none")) == "a.tar: file: expected present, found none"


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_a_packed_tar_has_no_differences(write_tar, encode_format):
    assert check(*write_tar(encode_format), encode_format) == []


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("offset", 7, "t.tar, k1: offset in the tar's header: expected"),
        ("length", 7, "t.tar, k1: length in the tar's header: expected"),
        ("width", 7, "t.tar, k1: width: expected 7, found 90"),
        ("height", 7, "t.tar, k1: height: expected 7, found 60"),
        ("sha256", "00", "t.tar, k1: sha256: expected 00, found"),
    ],
)
def test_an_index_with_other_values(write_tar, column, value, expected):
    path, entries = write_tar()
    entries[1][column] = value
    [line] = check(path, entries)
    assert line.startswith(expected)


def test_a_picture_with_the_right_hash_that_cannot_be_decoded(write_tar, draw_jpg):
    cut = draw_jpg(1)[:-300]
    path, entries = write_tar(change=lambda members: [(n, cut if n == "k1.jpg" else body) for n, body in members])
    entries[1] |= {"length": len(cut), "sha256": pack.hashlib.sha256(cut).hexdigest()}
    [line] = check(path, entries)
    assert line.startswith("t.tar, k1: picture: expected one that can be decoded, found")


def test_another_format_and_size(write_tar, draw_jpg):
    png = cv2.imencode(".png", np.zeros((60, 90, 3), np.uint8))[1].tobytes()
    path, entries = write_tar(change=lambda members: [(n, png if n == "k1.jpg" else body) for n, body in members])
    entries[1] |= {"length": len(png), "sha256": pack.hashlib.sha256(png).hexdigest()}
    assert check(path, entries) == ["t.tar, k1: format: expected jpg, found png"]
    path, entries = write_tar("jpg", change=lambda ms: [(n, draw_jpg(1) if n == "k1.jpg" else body) for n, body in ms])
    entries[1] |= {"length": len(draw_jpg(1)), "sha256": pack.hashlib.sha256(draw_jpg(1)).hexdigest()}
    assert "t.tar, k1: size: expected 32x32, found 90x60" in check(path, entries, "jpg")


def test_additional_missing_and_reordered_samples(write_tar):
    assert (
        check(*write_tar(change=lambda members: members[3:]))[-1]
        == "t.tar, k0: members: expected present, found no jpg, no cls, no json"
    )
    assert check(*write_tar(change=lambda members: members[:-1])) == [
        "t.tar, k2: members: expected present, found no json"
    ]
    assert check(*write_tar(change=lambda members: [*members, ("evil.jpg", b"x")])) == [
        "t.tar, evil: member: expected none (it isn't in the index), found evil.jpg"
    ]
    assert check(*write_tar(change=lambda members: [*members[3:], *members[:3]])) == [
        "t.tar, k1: order: expected that of the index, found another"
    ]
    [line] = check(*write_tar(change=lambda members: [*members, members[-1]]))
    assert line.startswith("t.tar, k2: member: expected once, found k2.json again at byte ")


def test_labels_and_json_of_another_picture(write_tar):
    def change(members):
        return [(name, {"k1.cls": b"7", "k2.json": b"{"}.get(name, body)) for name, body in members]

    label, metadata = check(*write_tar(change=change))
    assert label == "t.tar, k1: cls: expected 1, found b'7'"
    assert metadata.startswith('t.tar, k2: json: expected {"image_url": "http://h/2"')


def test_an_unreadable_tar_is_a_difference(tmp_path):
    assert check(tmp_path / "none.tar", []) == ["t.tar: file: expected readable, found No such file or directory"]
    (tmp_path / "odd.tar").write_bytes(b"x" * 2000)
    assert check(tmp_path / "odd.tar", [])[0].startswith("t.tar: headers after none: expected valid, found ")
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    assert check(tmp_path / "empty.tar", []) == []
