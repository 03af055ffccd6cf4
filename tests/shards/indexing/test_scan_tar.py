import gzip
import io
import os
import tarfile

import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.indexing.scan_tar import WARNING_KEY, ScanRules, scan_tar


@pytest.fixture
def scan(tmp_path):
    """Scan a tar, and return its rows and its warning."""

    def run(path, **rules):
        target = tmp_path / "scan.parquet"
        scan_tar(path, ScanRules(**rules), target)
        table = pq.read_table(target)
        return table.to_pylist(), (pq.read_metadata(target).metadata or {}).get(WARNING_KEY, b"").decode()

    return run


def test_the_offsets_are_those_of_the_pictures(write_tar, scan, draw_jpg):
    pictures = {f"{number:09d}": draw_jpg(number) for number in range(3)}
    path = write_tar("a.tar", {key: {"jpg": body, "cls": "1", "txt": "é"} for key, body in pictures.items()})
    rows, warning = scan(path)
    assert [row["id"] for row in rows] == list(pictures)
    content = path.read_bytes()
    for row, body in zip(rows, pictures.values(), strict=True):
        assert content[row["offset"] :][: row["length"]] == body
        assert (row["format"], row["width"], row["height"], row["status"]) == ("jpg", 90, 60, "kept")
        assert row["image_url"] == f"a.tar/{row['id']}.jpg"
        assert row["extra"] == '{"txt": "é"}'
    assert warning == ""


@pytest.mark.parametrize(
    ("key", "rules", "label"),
    [
        ("a", {}, "7"),
        ("a", {"label_from": "txt"}, "a cat"),
        ("a", {"label_from": "json", "label_key": "style"}, "3"),
        ("a", {"label_from": "json", "label_key": "x.y"}, "deep"),
        ("a", {"label_from": "json", "label_key": "x.z"}, "dotted"),
        ("dog/deep/a", {"label_from": "folder"}, "deep"),
        ("a", {"label_from": "folder"}, "tars"),
        ("a", {"label_from": "none"}, "unlabelled"),
    ],
)
def test_labels_come_from_a_member_or_the_path(key, rules, label, write_tar, scan, draw_jpg):
    columns = {"style": 3, "x": {"y": "deep"}, "x.z": "dotted", "url": "http://h.org/1.jpg", "sha256": "00"}
    path = write_tar("tars/a.tar", {key: {"jpg": draw_jpg(0), "cls": "7\n", "txt": " a\ncat ", "json": columns}})
    [row], _ = scan(path, **rules)
    assert row["label"] == label
    assert row["image_url"] == "http://h.org/1.jpg"
    assert "sha256" not in row["extra"]  # repack would compare it with the stored picture


@pytest.mark.parametrize(
    ("members", "rules", "message"),
    [
        ({"json": {"a": 1}}, {}, "the sample a has no cls (it has jpg, json; JSON keys: a); give --label_key KEY"),
        ({"json": {"a": 1}}, {"label_from": "json", "label_key": "b"}, "has no label b in its JSON"),
        ({"json": {"a": [[1]]}}, {"label_from": "json", "label_key": "a"}, "has no usable label"),
        ({"json": "no json"}, {"label_from": "json", "label_key": "a"}, "JSON keys: none"),
        ({"cls": b"\xff"}, {}, "has no usable label"),
        ({"png": b"", "cls": "1"}, {}, "has several pictures, a.jpg, a.png; choose one with --picture_ext jpg"),
    ],
)
def test_a_sample_without_a_label_or_with_several_pictures_is_named(members, rules, message, write_tar, scan, draw_jpg):
    path = write_tar("a.tar", {"a": {"jpg": draw_jpg(0)} | members})
    with pytest.raises(ShardsError) as caught:
        scan(path, **rules)
    assert str(caught.value).startswith(f"{path}: the sample a has ")
    assert message in str(caught.value)
    assert "write the tar again" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_picture_is_chosen_among_several_extensions(write_tar, scan, draw_jpg):
    members = {"seg.png": draw_jpg(1), "jpg": draw_jpg(0), "cls": "1"}
    path = write_tar("a.tar", {"a": members, "b": members, "c": {"txt": "no picture", "cls": "1"}})
    rows, warning = scan(path)
    assert {row["image_url"] for row in rows} == {"a.tar/a.jpg", "a.tar/b.jpg"}
    assert warning == "1 samples without a picture were skipped"
    rows, _ = scan(path, picture_ext="seg.png")
    assert {row["image_url"] for row in rows} == {"a.tar/a.seg.png", "a.tar/b.seg.png"}


def test_bad_pictures_have_an_outcome(write_tar, scan, draw_jpg):
    bodies = {"cut": draw_jpg(0)[:500], "text": b"a text", "empty": b"", "good": draw_jpg(1)}
    rows, _ = scan(write_tar("a.tar", {key: {"jpg": body, "cls": "1"} for key, body in bodies.items()}))
    statuses = {row["id"]: row["status"] for row in rows}
    assert statuses == {"cut": "corrupt", "text": "not_an_image", "empty": "not_an_image", "good": "kept"}
    assert all(row["message"] for row in rows if row["status"] != "kept")


def test_compressed_and_other_files_are_refused_by_name(write_tar, scan, tmp_path, draw_jpg):
    path = write_tar("a.tar", {"a": {"jpg": draw_jpg(0), "cls": "1"}})
    zipped, other, empty = tmp_path / "z.tar", tmp_path / "o.tar", tmp_path / "e.tar"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    other.write_bytes(b"a text" * 200)
    empty.write_bytes(b"")
    for file, message in [
        (zipped, "z.tar is compressed with gzip, so its pictures can't be read in place; decompress it first"),
        (other, "o.tar can't be read as a tar"),
        (empty, "e.tar can't be read as a tar: empty file"),
    ]:
        with pytest.raises(ShardsError) as caught:
            scan(file)
        assert message in str(caught.value)


def test_a_damaged_tar_gives_the_samples_before_the_damage(write_tar, scan, draw_jpg):
    path = write_tar("a.tar", {key: {"cls": "1", "jpg": draw_jpg(0)} for key in "abcd"})
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        third = tar.getmember("c.jpg")
    path.write_bytes(content[: third.offset_data + 200])
    rows, warning = scan(path)
    assert [(row["id"], row["status"]) for row in rows] == [("a", "kept"), ("b", "kept"), ("c", "corrupt")]
    assert "cut or damaged after c.jpg" in warning
    damaged = bytearray(content)
    damaged[third.offset : third.offset + 300] = b"\xff" * 300
    path.write_bytes(damaged)
    rows, warning = scan(path, label_from="none")
    assert [row["id"] for row in rows] == ["a", "b"]
    assert "damaged after c.cls" in warning


def test_other_members_and_long_names(scan, tmp_path, draw_jpg):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ["./", "./._1.jpg", "./1.jpg", "./1.cls", "é" * 90 + ".jpg", "é" * 90 + ".cls"]:
            info = tarfile.TarInfo(name)
            body = b"1" if name.endswith("cls") else draw_jpg(0)
            if name == "./":
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(body)
            tar.addfile(info, None if name == "./" else io.BytesIO(body))
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "1.jpg"
        tar.addfile(link)
    rows, _ = scan(path)
    assert [(row["id"], row["status"]) for row in rows] == [("1", "kept"), ("é" * 90, "kept")]


def test_a_sparse_member_is_not_indexed(scan, tmp_path, draw_jpg):
    sparse = tmp_path / "1.jpg"
    with sparse.open("wb") as file:
        file.write(draw_jpg(0))
        file.truncate(2**20)
    if os.system("tar --version >/dev/null 2>&1"):
        pytest.skip("needs GNU tar")
    (tmp_path / "1.cls").write_text("1")
    assert os.system(f"cd {tmp_path} && tar --format=gnu -Scf a.tar 1.jpg 1.cls") == 0
    [row], _ = scan(tmp_path / "a.tar")
    assert (row["status"], row["message"]) == ("corrupt", "a sparse member, which isn't stored in one piece")


def test_a_name_that_is_there_twice_in_a_row_is_refused(scan, tmp_path, draw_jpg):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            info = tarfile.TarInfo("1.jpg")
            info.size = len(draw_jpg(0))
            tar.addfile(info, io.BytesIO(draw_jpg(0)))
    with pytest.raises(ShardsError, match=r"a.tar: 1.jpg: duplicate file name in tar file .*; write the tar again"):
        scan(path)
