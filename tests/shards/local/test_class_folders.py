import json
import os
from collections import Counter

import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.format.index import ShardIndex
from shards.local.class_folders import FolderRules, list_class_folders
from tests.assembly import outcomes_by_row


@pytest.fixture
def photos(tmp_path, draw_jpg):
    """Write pictures, given as relative paths, into a folder, and return it."""

    def write(*paths):
        for number, name in enumerate(paths):
            path = tmp_path / "my photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw_jpg(number))
        return tmp_path / "my photos"

    return write


def rows_of(root, **rules):
    found = list_class_folders(root, FolderRules(**rules))
    return [json.loads(line) for line in found.listing.splitlines()], found


def test_classes_are_the_sorted_folders_and_nested_pictures_belong_to_them(photos):
    rows, found = rows_of(photos("dog/1.jpg", "cat/deep/er/1.JPG", "10/1.jpeg", "cat/ä b.png", "dog/2.webp"))
    assert found.classes == ("10", "cat", "dog")
    assert [(row["image_url"], row["label"]) for row in rows] == [
        ("10/1.jpeg", "10"),
        ("cat/ä b.png", "cat"),
        ("cat/deep/er/1.JPG", "cat"),
        ("dog/1.jpg", "dog"),
        ("dog/2.webp", "dog"),
    ]
    assert found.warnings == ()


@pytest.mark.parametrize("begun", [".work/whole.lock", "blocks/rows.parquet"])
def test_shards_in_the_folder_of_pictures_are_no_class(photos, begun):
    pictures = ("train/cat/1.jpg", "train/dog/1.jpg", "test/cat/2.jpg", "test/dog/2.jpg")
    before = rows_of(photos(*pictures))[1]
    assert rows_of(photos(*pictures, f"shards/{begun}", "train/shards/blocks/rows.parquet"))[1] == before
    assert before.warnings == ()


def test_the_same_command_continues_with_out_in_the_folder_of_pictures(photos, run_assemble):
    root = photos(*(f"{split}/{name}/1.jpg" for split in ("train", "test") for name in ("cat", "dog")))
    run_assemble(list=str(root), out=root / "shards")
    assert "4 of 4 were done before" in run_assemble(list=str(root), out=root / "shards")
    with pytest.raises(ShardsError, match=r"my photos is the folder of the pictures; give another one, such as"):
        run_assemble(list=str(root), out=root)
    assert sorted(path.name for path in root.iterdir()) == ["shards", "test", "train"]


def test_a_class_is_one_line_without_spaces_around_it(photos):
    rows, found = rows_of(photos(" big cat/1.jpg", "dog\n2/1.jpg", "dog  3/1.jpg"))
    assert found.classes == ("big cat", "dog  3", "dog 2")
    assert {row["label"] for row in rows} == set(found.classes)


def test_keys_come_from_the_paths_and_are_unique(photos):
    paths = ["cat/1.jpg", "cat/1.png", "a_b/c.jpg", "a/b_c.jpg", "cat/ü.jpg", "cat/" + "x" * 100 + ".jpg"]
    keys = {row["image_url"]: row["id"] for row in rows_of(photos(*paths))[0]}
    assert len(set(keys.values())) == len(paths)
    assert all(len(key) <= 80 and key.isascii() for key in keys.values())
    more = {row["image_url"]: row["id"] for row in rows_of(photos("zebra/1.jpg"))[0]}
    assert more.pop("zebra/1.jpg") == "zebra_1"
    assert more == keys  # they don't depend on other pictures


def test_a_share_of_each_class_is_drawn_from_the_paths_alone(photos, tmp_path):
    root = photos(
        *(f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(10)), "rare/1.jpg", "two/1.jpg"
    )
    photos("two/2.jpg")

    def test_rows(**rules):
        return {row["image_url"] for row in rows_of(root, **rules)[0] if row["split"] == "test"}

    drawn = test_rows(test_share=0.3)
    assert Counter(path.partition("/")[0] for path in drawn) == {"cat": 3, "dog": 3, "two": 1}
    assert test_rows(test_share=0.3, seed=1) != drawn
    assert test_rows(test_share=0) == set()
    before = rows_of(root)[1].listing
    root = root.rename(tmp_path / "moved")
    assert rows_of(root)[1].listing == before


def test_folders_of_splits(photos):
    root = photos("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg")
    rows, found = rows_of(root)
    assert [(row["split"], row["label"]) for row in rows] == [("train", "cat"), ("train", "dog"), ("test", "cat")]
    assert found.warnings == ("val/ is stored as the split test, on which training tests by default",)
    rows, found = rows_of(photos("test/bird/3.jpg"))
    assert [row["split"] for row in rows] == ["test", "train", "train", "val"]
    assert found.warnings == ()


def test_folders_of_splits_that_are_not_recognized_are_reported(photos):
    _, found = rows_of(photos("train/cat/1.jpg", "val/cat/2.jpg", "raw/3.jpg", "train/dog/4.jpg"))
    assert found.classes == ("raw", "train", "val")
    assert found.warnings == ("the folders of splits are taken for classes; move the other folders elsewhere: raw",)


def test_folders_of_splits_within_classes_are_reported(photos):
    root = photos("cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg", "dog/old/4.jpg")
    _, found = rows_of(root)
    assert found.classes == ("cat", "dog")
    ignored = "the folders of splits within those of classes are ignored"
    assert found.warnings == (f"{ignored}; move them to {root}/train/CLASS",)
    assert rows_of(root, has_labels=False)[1].warnings == ()


def test_a_test_split_is_drawn_from_a_folder_train_alone(photos):
    rows, found = rows_of(photos(*(f"train/{name}/{number}.jpg" for name in ("cat", "dog") for number in range(5))))
    assert found.classes == ("cat", "dog")
    assert Counter((row["split"], row["label"]) for row in rows) == {
        ("train", "cat"): 4, ("test", "cat"): 1, ("train", "dog"): 4, ("test", "dog"): 1,
    }  # fmt: skip


def test_a_class_may_be_named_as_a_split(photos):
    rows, found = rows_of(photos("train/1.jpg", "bus/1.jpg"))
    assert found.classes == ("bus", "train")
    assert {row["split"] for row in rows} == {"train"}


def test_everything_that_is_skipped_is_counted(photos, tmp_path):
    root = photos("cat/1.jpg", "dog/1.jpg", "loose.jpg", "cat/.hidden.jpg", "__MACOSX/cat/1.jpg")
    (root / "cat" / "notes.txt").write_text("")
    (root / "cat" / "README").write_text("")
    (root / "empty").mkdir()
    photos("../elsewhere/1.jpg")
    (root / "cat" / "loop").symlink_to("..")
    (root / "cat" / "inner.jpg").symlink_to("1.jpg")
    (root / "dog" / "outer").symlink_to(tmp_path / "elsewhere")
    rows, found = rows_of(root)
    assert [row["image_url"] for row in rows] == ["cat/1.jpg", "cat/inner.jpg", "dog/1.jpg"]
    assert found.warnings == (
        "folders without pictures: empty",
        (
            "skipped 2 hidden, 1 links to a folder above, 1 links out of the folder (--follow_links follows them), "
            "1 pictures outside of the folders of classes, 2 without a picture's extension (1 .txt, 1 without any)"
        ),
    )
    rows, _ = rows_of(root, follow_links=True)
    assert "dog/outer/1.jpg" in [row["image_url"] for row in rows]


def test_folders_that_cannot_be_used_are_refused_in_one_line(photos, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("")
    for root, message in [
        (
            tmp_path / "none",
            "it has no pictures (skipped 1 without a picture's extension (1 .txt)); it must",
        ),
        (photos("1.jpg"), "it has pictures, but no folders of classes with pictures; move them to"),
    ]:
        with pytest.raises(ShardsError) as caught:
            list_class_folders(root, FolderRules())
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_that_cannot_be_read_is_named(photos):
    root = photos("cat/1.jpg", "dog/1.jpg")
    (root / "dog").chmod(0)
    with pytest.raises(ShardsError, match="dog: Permission denied"):
        list_class_folders(root, FolderRules())
    (root / "dog").chmod(0o755)


def test_one_class_alone_is_probably_a_mistake(photos):
    assert "its only class is images" in rows_of(photos("images/cat/1.jpg", "images/dog/1.jpg"))[1].warnings[0]


def test_assemble_packs_a_folder_and_verify_agrees(photos, tmp_path, capsys, monkeypatch, draw_jpg):
    root = photos(*(f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(5)), "dog/cut.jpg")
    (root / "dog" / "cut.jpg").write_bytes(draw_jpg(0)[:600])
    (root / "dog" / "text.jpg").write_text("a text")
    (root / "dog" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    latin = os.fsencode(root) + b"/dog/caf\xe9.jpg"
    with open(latin, "wb") as file:  # noqa: PTH123 -- a name that isn't UTF-8
        file.write(draw_jpg(77))
    monkeypatch.chdir(tmp_path)
    out = ["--out", "out", "--workers", "1", "--rows_per_shard", "4"]
    assert main(["assemble", "--list", "my photos", *out]) == 0
    assert main(["verify", "out"]) == 0
    index = ShardIndex.load(tmp_path / "out")
    assert index.metadata.classes == ("cat", "dog")
    outcomes = {row["image_url"]: row["status"] for row in outcomes_by_row(tmp_path / "out").values()}
    messages = {row["image_url"]: row["message"] for row in outcomes_by_row(tmp_path / "out").values()}
    assert outcomes.pop("dog/cut.jpg") == "corrupt"
    assert outcomes.pop("dog/phone.HEIC") == "not_an_image"
    assert messages["dog/phone.HEIC"] == "HEIC, which OpenCV doesn't read; convert it to JPEG"
    assert outcomes.pop("dog/text.jpg") == "not_an_image"
    assert set(outcomes.values()) == {"kept"}
    assert outcomes["dog/café.jpg"] == "kept"
    # Moved pictures give the same bytes; a change of the folder is refused.
    before = (tmp_path / "out" / "index.parquet").read_bytes()
    root = root.rename(tmp_path / "moved")
    assert main(["assemble", "--list", str(root), "--out", "again", *out[2:]]) == 0
    assert (tmp_path / "again" / "index.parquet").read_bytes() == before
    (root / "cat" / "6.jpg").write_bytes(draw_jpg(88))
    capsys.readouterr()
    assert main(["assemble", "--list", str(root), *out]) == 2
    assert "was made from other pictures than" in capsys.readouterr().err
    assert main(["assemble", "--list", str(root), "--split", "by_owner", "--out", "third"]) == 2
    assert "needs a list with a column owner" in capsys.readouterr().err


def test_a_folder_without_labels(photos, tmp_path):
    root = photos("1.jpg", "deep/2.jpg")
    assert main(["assemble", "--list", str(root), "--out", str(tmp_path / "out"), "--label_col", "null"]) == 0
    assert ShardIndex.load(tmp_path / "out").metadata.classes == ("unlabelled",)
    assert pq.read_metadata(tmp_path / "out" / "index.parquet").num_rows == 2


def test_a_list_of_local_paths(photos, tmp_path, write_list, run_assemble, draw_jpg):
    root = photos("cat/1.jpg", "2.jpg")
    rows = [{"path": "my photos/cat/1.jpg", "label": "cat"}, {"path": str(root / "2.jpg"), "label": "dog"}]
    rows.append({"path": "my photos/none.jpg", "label": "dog"})
    path = write_list(rows)
    run_assemble(list=path, url_col="path", local=True)
    found = outcomes_by_row(tmp_path / "out")
    assert [found[row]["status"] for row in range(3)] == ["kept", "kept", "missing_file"]
    (root / "none.jpg").write_bytes(draw_jpg(5))
    run_assemble(list=write_list([*rows, {"path": "my photos/2.jpg", "label": "cat"}]), url_col="path", local=True,
                 retry="failed")  # fmt: skip
    assert {row["status"] for row in outcomes_by_row(tmp_path / "out").values()} == {"kept"}
    with pytest.raises(ShardsError, match="local True, not False"):
        run_assemble(list=path, url_col="path")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../a.jpg", "line 3 has '../a.jpg', outside the list's folder; write an absolute path"),
        ("x/../../a.jpg", "outside the list's folder"),
        (
            "http://example.org/a.jpg",
            "line 3 has the URL 'http://example.org/a.jpg', but --local is for paths; use two lists",
        ),
        ("FILE:///a.jpg", "line 3 has the URL 'FILE:///a.jpg', but --local is for paths; write its path"),
    ],
)
def test_a_list_of_local_paths_names_no_others(path, message, write_list, run_assemble):
    rows = [{"image_url": "a.jpg", "label": 0}, {"image_url": path, "label": 0}]
    with pytest.raises(ShardsError) as caught:
        run_assemble(list=write_list(rows), local=True)
    assert message in str(caught.value)


def test_a_list_from_the_web_names_no_local_files(server, run_assemble):
    from tests.loopback import Answer

    url = server.add("/list.csv", Answer(b"image_url,label\n/etc/passwd,0\n"))
    for name in (url, "flickr_style"):
        with pytest.raises(ShardsError, match="a list from the web may not name local files"):
            run_assemble(list=name, local=True)
