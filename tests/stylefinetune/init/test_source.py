import pytest

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


def test_folders_of_splits_are_recognized(tmp_path):
    make(tmp_path / "p" / "train", cat=10, dog=20)
    make(tmp_path / "p" / "val", cat=1)
    assert find_source(tmp_path / "p").train_counts == {"cat": 10, "dog": 20}


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
    with pytest.raises(UserError, match=r"has no folders of classes with pictures; put the pictures into .*/CLASS/"):
        find_source(tmp_path)
    with pytest.raises(UserError, match=r"index its tars first: shards index '.*train/\*\.tar' --out data/train"):
        find_source(pixel_shards / "train")
    with pytest.raises(UserError, match=r"name the columns of a list, and .* is a folder"):
        find_source(pixel_shards, "url")
    (tmp_path / "index.parquet").write_text("broken")
    with pytest.raises(UserError, match=r"index\.parquet"):
        find_source(tmp_path)
