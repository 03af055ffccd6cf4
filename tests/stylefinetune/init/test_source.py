from pathlib import Path

import pytest

from shards.local.class_folders import FolderRules, list_class_folders
from stylefinetune.errors import UserError
from stylefinetune.init.source import find_source


def make(root, **counts):
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.jpg").write_bytes(b"")
    return root


def test_a_folder_of_classes_is_counted(tmp_path):
    root = make(tmp_path / "my photos", cat=10, dog=20)
    (root / "dog" / "notes.txt").write_text("")
    (root / "empty").mkdir()
    source = find_source(root)
    assert (source.name, source.shards) == ("my_photos", "data/my_photos")
    assert source.assembly == {"list": str(root), "out": "data/my_photos"}
    assert source.train_counts == {"cat": 8, "dog": 16}  # without the test split that is drawn
    assert source.summary == f"the folder {root}: 30 pictures, 2 classes (cat, dog)"


def test_a_single_class_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"p has one class only, cat; a classifier needs two or more"):
        find_source(make(tmp_path / "p", cat=10, dog=0))


def test_folders_of_splits_are_recognized(tmp_path):
    make(tmp_path / "p" / "train", cat=10, dog=20)
    make(tmp_path / "p" / "val", cat=1)
    assert find_source(tmp_path / "p").train_counts == {"cat": 10, "dog": 20}


@pytest.mark.parametrize(
    "paths",
    [
        ("Train/cat/1.jpg", "Train/dog/1.JPG", "Val/cat/2.jpg"),
        ("training/cat/1.jpg", "training/dog/1.jfif", "testing/dog/1.jpg"),
        ("train/cat/1.avif", "train/dog/1.heic", "__MACOSX/train/cat/1.jpg", "train/bird/notes.svg"),
        ("train/1.jpg", "bus/1.jpg", "car/.hidden.jpg"),
        (" cat/1.jpg", "dog/a/b/1.ppm", "bird/1.txt"),
    ],
)
def test_the_classes_are_those_that_assemble_finds(tmp_path, paths):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    assert tuple(sorted(find_source(tmp_path).train_counts)) == list_class_folders(tmp_path, FolderRules()).classes


def test_shards_are_read_from_their_index(pixel_shards):
    source = find_source(pixel_shards)
    assert (source.assembly, source.shards, source.test_split) == (None, str(pixel_shards), "test")
    assert source.train_pictures == 41
    assert sum(source.train_counts.values()) == 41
    assert list(source.train_counts) == ["Noir", "Hazy", "Bokeh", "Bright"]
    assert "11 test, 41 train pictures, 4 classes (Noir, Hazy, Bokeh, Bright)" in source.summary


def test_a_list_names_its_columns(tmp_path):
    (tmp_path / "mine.csv").write_text("path,style\na.jpg,Noir\n")
    source = find_source(tmp_path / "mine.csv")
    assert source.assembly == {
        "list": str(tmp_path / "mine.csv"),
        "out": "data/mine",
        "url_col": "path",
        "label_col": "style",
        "local": True,
    }
    assert source.train_pictures is None


def test_a_path_without_pictures_is_one_line(tmp_path, pixel_shards):
    with pytest.raises(UserError, match="none doesn't exist; name a folder with a folder for each class"):
        find_source(tmp_path / "none")
    with pytest.raises(
        UserError, match=r"^https://a/b.csv isn't on this machine; run shards assemble --list https://a/b"
    ):
        find_source(Path("https://a/b.csv"))
    with pytest.raises(UserError, match=r"has no folders of classes with pictures; put the pictures into .*/CLASS/"):
        find_source(tmp_path)
    with pytest.raises(UserError, match=r"index its tars first: shards index '.*train/\*\.tar' --out data/train"):
        find_source(pixel_shards / "train")
    with pytest.raises(UserError, match=r"name the columns of a list, and .* is a folder"):
        find_source(pixel_shards, "url")
    (tmp_path / "index.parquet").write_text("broken")
    with pytest.raises(UserError, match=r"index\.parquet"):
        find_source(tmp_path)
