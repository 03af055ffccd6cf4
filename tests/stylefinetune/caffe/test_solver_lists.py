import os
import shutil
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.format.index import ShardIndex
from stylefinetune.caffe.database import Database
from stylefinetune.caffe.schema import message_class
from stylefinetune.caffe.solver import read_solver
from stylefinetune.caffe.solver_lists import check_files_exist, find_solver_lists, pack_solver_lists
from stylefinetune.config.cli import parse_config
from stylefinetune.errors import UserError
from stylefinetune.train import main
from tests.programs import metrics


@pytest.fixture
def find(work):
    """Read the lists of the solver, after replacing the lines of the training list by those given."""

    def find(lines: list[str] | None = None):
        if lines is not None:
            (work / "train.txt").write_text("".join(f"{line}\n" for line in lines))
        return find_solver_lists(parse_config(["--solver=solver_finetune.prototxt"], read_solver))

    return find


def test_the_lists_are_packed_once_and_again_after_a_change(work):
    config = parse_config(["--solver=solver_finetune.prototxt"], read_solver)
    lists = find_solver_lists(config)
    pack_solver_lists(lists)
    index = ShardIndex.load(lists.shards)
    assert len(index.entries("train")) == 193
    assert len(index.entries("test")) == 150
    assert index.metadata.classes == tuple(map(str, range(20)))
    written = (lists.shards / "index.parquet").stat().st_mtime_ns
    pack_solver_lists(find_solver_lists(config))
    assert (lists.shards / "index.parquet").stat().st_mtime_ns == written
    (work / "train.txt").write_text("".join((work / "train.txt").read_text().splitlines(keepends=True)[:50]))
    changed = find_solver_lists(config)
    assert changed.shards != lists.shards
    pack_solver_lists(changed)
    assert len(ShardIndex.load(changed.shards).entries("train")) == 50


def test_root_folder_is_a_prefix_of_each_path(work):
    text = (work / "train_val.prototxt").read_text()
    (work / "train_val.prototxt").write_text(text.replace('source: "t', 'root_folder: "images/" source: "t'))
    for name in ("train.txt", "test.txt"):
        (work / name).write_text((work / name).read_text().replace("images/", ""))
    lists = find_solver_lists(parse_config(["--solver=solver_finetune.prototxt"], read_solver))
    pack_solver_lists(lists)
    assert len(ShardIndex.load(lists.shards).entries("train")) == 193


def test_a_line_that_is_no_picture_of_the_net_is_named(work, find):
    listed = (work / "train.txt").read_text().splitlines()
    for line, found in (("images/train_001.webp 20", "label from 0 to 19"), ("images/train_001.webp", "isn't a path")):
        with pytest.raises(UserError, match=f"^train.txt, line 3: .*{found}.*; the net's last layer fc8_flickr has 20"):
            find([*listed[:2], line, *listed[2:]])
    with pytest.raises(UserError, match=r"train\.txt: the net's list has no pictures"):
        find([""])
    (work / "train.txt").unlink()
    with pytest.raises(UserError, match=r"train\.txt: the net's list can't be read: No such file"):
        find()


def test_tabs_other_encodings_and_formats_are_read(work, find):
    """As in Caffe, a file's name is a sequence of bytes, and any format that OpenCV reads is a picture."""
    lists = find()
    (work / os.fsdecode("训练.webp".encode("gbk"))).write_bytes((work / "images" / "train_000.webp").read_bytes())
    lines = (work / "train.txt").read_text().splitlines()
    lines = ["训练.webp\t8", *(line.replace(" ", "\t") for line in lines[1:])]
    (work / "train.txt").write_bytes("\r\n".join(lines).encode("gbk"))
    changed = find()
    pack_solver_lists(lists)
    pack_solver_lists(changed)
    assert lists.shards != changed.shards
    old, new = (ShardIndex.load(one.shards).entries("train") for one in (lists, changed))
    assert list(old.label) == list(new.label)
    outcomes = pq.read_table(changed.shards / "outcomes.parquet", columns=["image_url"])
    assert "训练.webp" in outcomes["image_url"].to_pylist()


def test_missing_pictures_are_named_before_anything_is_packed(find):
    check_files_exist(find())
    lists = find([f"images/none_{number}.png {number}" for number in range(20)] + ["images/train_000.webp 1", "x y 2"])
    with pytest.raises(UserError) as error:
        check_files_exist(lists)
    first, *rest = str(error.value).splitlines()
    assert first == "21 pictures of the net's lists can't be found; fix the lists or root_folder:"
    assert rest == [*(f"  train.txt, line {n + 1}: images/none_{n}.png" for n in range(20)), "  and 1 more"]


def test_bad_pictures_are_named_together_and_the_others_stay_packed(work, find):
    good = (work / "train.txt").read_text().splitlines()
    shutil.copy(work / "images" / "train_000.webp", work / "images" / "mended.webp")
    whole = (work / "images" / "mended.webp").read_bytes()
    (work / "images" / "mended.webp").write_bytes(whole[:100])
    (work / "images" / "text.png").write_text("no picture")
    lists = find([*good[:5], "", "images/mended.webp 3", "images/text.png 4", *good[5:]])
    with pytest.raises(UserError) as error:
        pack_solver_lists(lists)
    first, *rest = str(error.value).splitlines()
    assert first.startswith("2 pictures of the net's lists can't be used; replace each or remove its line")
    assert rest[0].startswith("  train.txt, line 7: images/mended.webp: corrupt, doesn't decode")
    assert rest[1].startswith("  train.txt, line 8: images/text.png: not_an_image, begins with b'no picture'")
    assert not lists.is_packed
    tar = next((lists.shards / "test").glob("*.tar"))
    before = tar.stat().st_mtime_ns
    (work / "images" / "mended.webp").write_bytes(whole)
    with pytest.raises(UserError, match=r"^1 picture of the net's lists can't be used"):
        pack_solver_lists(lists)  # only the failed pictures are read again
    assert tar.stat().st_mtime_ns == before
    removed = find([*good[:5], "images/mended.webp 3", *good[5:]])
    packed = lists.shards / "index.parquet"
    index = packed.read_bytes()
    pack_solver_lists(removed)  # the shards have exactly the remaining pictures
    assert removed.is_packed
    assert (removed.shards / "index.parquet").read_bytes() == index
    assert not packed.exists()
    assert len(ShardIndex.load(removed.shards).entries("train")) == len(good) + 1


@pytest.fixture
def databases(work):
    """Puts the pictures of both lists into LMDB databases, as pixels, and makes the net read them."""
    text = (work / "train_val.prototxt").read_text()
    for split in ("train", "test"):
        with lmdb.open(str(work / f"{split}_lmdb"), map_size=1 << 26) as database, database.begin(write=True) as writer:
            for number, line in enumerate((work / f"{split}.txt").read_text().splitlines()):
                path, label = line.split()
                writer.put(f"{number:08d}_{path}".encode(), _datum(cv2.imread(path), int(label)))
        source = f'image_data_param {{ source: "{split}.txt"'
        assert source in text
        text = text.replace(source, f'data_param {{ backend: LMDB source: "{split}_lmdb"')
    (work / "train_val.prototxt").write_text(text.replace('type: "ImageData"', 'type: "Data"'))
    return work


def _datum(pixels, label):
    height, width, channels = pixels.shape
    data = pixels.transpose(2, 0, 1).tobytes()
    fields = {"channels": channels, "height": height, "width": width, "data": data, "label": label}
    return message_class("Datum")(**fields).SerializeToString()


def test_databases_are_packed_once_with_the_pixels_and_labels_of_their_entries(databases, find):
    lists = find()
    check_files_exist(lists)
    pack_solver_lists(lists)
    assert find().is_packed
    entries = ShardIndex.load(lists.shards).entries("train")
    listed = [int(line.split()[1]) for line in (databases / "train.txt").read_text().splitlines()]
    assert entries.label.tolist() == listed
    assert not list((lists.shards.parent / "lmdb").rglob("0*1"))  # the copies that were packed
    done = lists.pictures[5].read()
    expected = cv2.imread((databases / "train.txt").read_text().splitlines()[5].split()[0])
    assert np.array_equal(cv2.imdecode(np.frombuffer(done, np.uint8), cv2.IMREAD_COLOR), expected)


@pytest.mark.usefixtures("databases")
def test_the_copies_of_an_interrupted_packing_are_used_again(find, monkeypatch):
    lists = find()
    folder = Path(lists.pictures[0].path).parent
    folder.mkdir(parents=True)
    for picture in lists.pictures[:3]:
        Path(picture.path).write_bytes(picture.read())
    (folder / "next.part").write_bytes(b"half")
    started = []
    pictures = Database.pictures
    monkeypatch.setattr(Database, "pictures", lambda self, start=0: started.append(start) or pictures(self, start))
    pack_solver_lists(lists)
    assert started == [3, 0]  # of train, and of test
    assert find().is_packed


def test_a_changed_database_is_packed_again(databases, find):
    before = find().shards
    with lmdb.open(str(databases / "train_lmdb"), map_size=1 << 26) as database, database.begin(write=True) as writer:
        writer.put(b"99999999", _datum(np.zeros((80, 80, 3), np.uint8), 4))
    assert find().shards != before
    assert len(find().pictures) == 193 + 150 + 1


def test_a_label_without_an_output_is_named(databases, find):
    with lmdb.open(str(databases / "train_lmdb"), map_size=1 << 26) as database, database.begin(write=True) as writer:
        writer.put(b"99999999_x", _datum(np.zeros((80, 80, 3), np.uint8), 20))
    with pytest.raises(
        UserError, match="train_lmdb, key 99999999_x: the label is 20; the net's last layer fc8_flickr has"
    ):
        find()


def test_training_from_databases_is_bitwise_that_from_lists(databases, tmp_path):
    """The pictures of convert_imageset's database are those of its list, in the same order."""
    flags = ["--solver=solver_finetune.prototxt", "--train.max_iter=2", "--tracking.wandb=disabled", "--data.workers=0"]
    main([*flags, f"--run_dir={tmp_path / 'lmdb'}", "--train.test_iter=2"])
    text = (databases / "train_val.prototxt").read_text()
    for split in ("train", "test"):
        text = text.replace(
            f'data_param {{ backend: LMDB source: "{split}_lmdb"', f'image_data_param {{ source: "{split}.txt"'
        )
    (databases / "train_val.prototxt").write_text(text.replace('type: "Data"', 'type: "ImageData"'))
    main([*flags, f"--run_dir={tmp_path / 'lists'}", "--train.test_iter=2"])
    found = [
        [(entry["iteration"], entry["loss"]) for phase in ("train", "test") for entry in metrics(tmp_path / run, phase)]
        for run in ("lmdb", "lists")
    ]
    assert len(found[0]) >= 4
    assert found[0] == found[1]
