import itertools
import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from shards import ShardsError, open_shards
from shards.format.index import ShardIndex
from stylefinetune.config.data import DataConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from tests.programs import assemble

BATCH = 5


@pytest.fixture
def train(pixel_shards):
    return open_shards(pixel_shards, "train")


def test_items_are_the_pictures_and_labels_of_the_index(train, pixel_shards):
    """The same pixels that training reads."""
    config = DataConfig(shards=str(pixel_shards), image_size=48, shuffle=False)
    entries = open_split(open_index(config), "train")
    ours = PictureDataset(entries, config.phase(training=True), seed=1)
    rows = np.arange(len(train))
    pixels = np.empty((len(rows), 48, 48, 3), np.uint8)
    ours.read(rows.tolist(), rows, pixels)
    for row in rows.tolist():
        picture, label = train[row]
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), pixels[row])
        assert label == entries.label[row]
    assert train.classes == ShardIndex.load(pixel_shards).metadata.classes
    assert train.labels.tolist() == entries.label.tolist()


def test_files_are_decoded(drawn, tmp_path):
    assemble(*drawn.lists, "--out", tmp_path / "originals")
    entries = ShardIndex.load(tmp_path / "originals").entries("test")
    picture, _ = open_shards(tmp_path / "originals", "test")[2]
    body = (entries.root / entries.shard[2]).read_bytes()[entries.offset[2] :][: entries.length[2]]
    assert np.array_equal(np.asarray(picture), cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB))


def test_several_labels_are_numbers_for_all_classes(label_shards):
    dataset = open_shards(label_shards)
    labels = ShardIndex.load(label_shards).entries("train").labels
    for row in range(len(dataset)):
        _, target = dataset[row]
        assert (target.dtype, target.shape) == (np.float32, (len(dataset.classes),))
        assert np.flatnonzero(target).tolist() == labels[row].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_batches_of_transformed_pictures(pixel_shards, workers):
    steps = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = open_shards(pixel_shards, transform=steps)
    batches = dataset.batches(BATCH, seed=3, stop=7)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    read = [(pictures.shape, labels.tolist()) for pictures, labels in loader]
    assert len(loader) == len(read) == 7
    assert read == [((BATCH, 3, 48, 48), dataset.labels[rows].tolist()) for rows in batches]


def test_batches_are_those_of_training_on_any_number_of_ranks_and_from_any_start(train, pixel_shards):
    config = DataConfig(shards=str(pixel_shards), image_size=48, shuffle=True)
    order = PictureDataset(open_split(open_index(config), "train"), config.phase(training=True), seed=9).order
    whole = list(train.batches(BATCH, seed=9, stop=12))
    assert whole == [order.rows_at(range(n * BATCH, n * BATCH + BATCH)).tolist() for n in range(12)]
    assert list(train.batches(BATCH, seed=9, start=8, stop=12)) == whole[8:]
    parts = [train.batches(BATCH, seed=9, stop=12, rank=rank, world_size=3) for rank in range(3)]
    assert [list(itertools.chain(*slices)) for slices in zip(*parts, strict=True)] == whole
    assert list(train.batches(3, seed=9, stop=1, shuffle=False)) == [[0, 1, 2]]
    for wrong in ({"batch_size": 0}, {"start": 5}, {"rank": 2, "world_size": 2}, {"world_size": 6}):
        with pytest.raises(ValueError, match="no batches for each rank"):
            train.batches(**{"batch_size": BATCH, "seed": 1, "stop": 4, **wrong})


def test_a_dataset_can_be_sent_to_another_process(train):
    copy = pickle.loads(pickle.dumps(train))
    assert np.array_equal(np.asarray(copy[1][0]), np.asarray(train[1][0]))


def test_rows_end(train):
    assert len(list(train)) == len(train)
    for row in (-1, len(train)):
        with pytest.raises(IndexError):
            train[row]


def test_what_is_missing_is_named(pixel_shards, tmp_path):
    with pytest.raises(ShardsError, match="has no pictures of split 'val'; it has test, train"):
        open_shards(pixel_shards, "val")
    with pytest.raises(ShardsError, match=r"index\.parquet: no such file"):
        open_shards(tmp_path)


def test_a_damaged_shard_is_named(pixel_shards, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(pixel_shards, copy)
    dataset = open_shards(copy)
    shard = next(iter((copy / "train").glob("*.tar")))
    shard.write_bytes(b"")
    with pytest.raises(
        ShardsError, match=r"copy/train/00000\.tar: \S+ can't be read \(.*\); check the shards with: shards verify"
    ):
        dataset[0]
    shard.unlink()
    with pytest.raises(ShardsError, match="No such file or directory"):
        dataset[0]
