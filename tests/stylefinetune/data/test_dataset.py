import itertools
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shards.format.index import ShardIndex, write_index
from stylefinetune.config.data import TestDataConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.errors import DataError, UserError
from tests.programs import assemble
from tests.stylefinetune.data.loading import data_config, open_pictures, read_batches


def test_shards_of_originals_and_of_pixels_give_bitwise_equal_batches(pixel_shards, original_shards):
    for from_pixels, from_originals in zip(
        read_batches(open_pictures(pixel_shards)), read_batches(open_pictures(original_shards)), strict=True
    ):
        assert torch.equal(from_pixels.pictures, from_originals.pictures)
        assert torch.equal(from_pixels.labels, from_originals.labels)
        assert torch.equal(from_pixels.crops.top, from_originals.crops.top)
        assert torch.equal(from_pixels.crops.mirror, from_originals.crops.mirror)


def test_jpg_pictures_are_close_to_the_originals_and_resized_if_the_size_differs(drawn, pixel_shards, tmp_path):
    assemble(*drawn.lists, "--out", tmp_path / "jpg", "--encode_format=jpg", "--image_size=48", "--rows_per_shard=20")
    (lossy,) = read_batches(open_pictures(tmp_path / "jpg"), stop=10)
    (exact,) = read_batches(open_pictures(pixel_shards), stop=10)
    assert (lossy.pictures.float() - exact.pictures.float()).abs().mean() < 12
    (larger,) = read_batches(open_pictures(tmp_path / "jpg", image_size=64), stop=10)
    assert larger.pictures.shape == (10, 64, 64, 3)


def test_crops_are_random_in_training_and_central_in_testing(pixel_shards):
    drawn = read_batches(open_pictures(pixel_shards), stop=400)
    tops = torch.cat([batch.crops.top for batch in drawn])
    assert sorted(tops.unique().tolist()) == [0, 1, 2, 3, 4, 5]
    mirrored = torch.cat([batch.crops.mirror for batch in drawn]).float().mean()
    assert 0.4 < mirrored < 0.6
    (central,) = read_batches(open_pictures(pixel_shards, training=False), stop=10)
    assert central.crops.top.unique().tolist() == [2]
    assert not central.crops.mirror.any()
    (plain,) = read_batches(open_pictures(pixel_shards, mirror=False), stop=10)
    assert not plain.crops.mirror.any()
    (other,) = read_batches(open_pictures(pixel_shards, training=False, test=TestDataConfig(crop_size=40)), stop=10)
    assert (other.crops.size, other.crops.top.unique().tolist()) == ((40, 40), [4])


def test_labels_and_order_are_those_of_the_list(pixel_shards, drawn):
    entries = open_split(open_index(data_config(pixel_shards)), "train")
    index = ShardIndex.load(pixel_shards)
    listed = [int(line.rsplit(" ", 1)[1]) for line in (drawn.folder / "train.txt").read_text().splitlines()]
    rows = index.table.filter(pa.compute.equal(index.table["split"], "train"))["row"].to_pylist()
    assert [listed[row] for row in rows] == entries.label.tolist()
    found = torch.cat([batch.labels for batch in read_batches(open_pictures(pixel_shards), stop=41)])
    assert found.tolist() == entries.label.tolist()


def test_a_window_of_one_reads_each_shard_from_front_to_back(pixel_shards):
    shuffled = open_pictures(pixel_shards, shuffle=True, shuffle_window=1)
    rows = [shuffled.order.row(n) for n in range(41)]
    read = [(shuffled.entries.shard[row], int(shuffled.entries.offset[row])) for row in rows]
    for shard in set(shuffled.entries.shard):
        positions = [position for position, (name, _) in enumerate(read) if name == shard]
        assert positions == list(range(positions[0], positions[-1] + 1))
        offsets = [read[position][1] for position in positions]
        assert offsets == sorted(offsets)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_is_replaced_by_a_black_one_without_label(original_shards, tmp_path, workers):
    shards = tmp_path / "damaged"
    shutil.copytree(original_shards, shards)
    damaged = open_pictures(shards)
    entries = damaged.entries
    with (shards / entries.shard[3]).open("r+b") as tar:
        tar.seek(int(entries.offset[3]))
        tar.write(b"\0" * int(entries.length[3]))
    whole, found = read_batches(open_pictures(original_shards))[0], read_batches(damaged, workers=workers)[0]
    assert found.corrupt == (3,)
    assert (found.labels[3], found.pictures[3].max(), found.size) == (CORRUPT_LABEL, 0, 10)
    others = [index for index in range(10) if index != 3]
    assert torch.equal(found.pictures[others], whole.pictures[others])
    assert torch.equal(found.labels[others], whole.labels[others])
    assert damaged.location(3) == f"{shards / entries.shard[3]}: {entries.key[3]}"


def test_a_shard_that_is_removed_during_a_run_is_a_data_error(original_shards, tmp_path):
    shards = tmp_path / "gone"
    shutil.copytree(original_shards, shards)
    opened = open_pictures(shards)
    shutil.rmtree(shards / "train")
    with pytest.raises(DataError, match=r"00000\.tar: \S+ can't be read \(No such file or directory\); check that the"):
        read_batches(opened)


def test_a_shard_that_is_truncated_during_a_run_is_a_data_error(original_shards, tmp_path):
    shards = shutil.copytree(original_shards, tmp_path / "cut")
    opened = open_pictures(shards)
    os.truncate(shards / opened.entries.shard[3], int(opened.entries.offset[3]) + 9)
    with pytest.raises(DataError, match=rf"{opened.location(3)} can't be read \(the shard has become shorter than"):
        read_batches(opened)


def test_messages_name_the_original_shard_if_a_copy_is_read(original_shards, tmp_path):
    shards, copy = shutil.copytree(original_shards, tmp_path / "DIR"), tmp_path / "copy"
    data = data_config(shards)
    staged = PictureDataset(open_split(open_index(data), "train"), data.phase(training=True), 7, copy)
    (shards / "train").rename(copy)
    copy.rename(tmp_path / "train")
    copy.mkdir()
    (tmp_path / "train").rename(copy / "train")
    for from_copy, from_shards in zip(read_batches(staged), read_batches(open_pictures(original_shards)), strict=True):
        assert torch.equal(from_copy.pictures, from_shards.pictures)
    assert staged.location(0).startswith(f"{shards}/train/00000.tar: ")
    (copy / "train" / "00001.tar").unlink()
    staged._reader._files.clear()
    with pytest.raises(DataError, match=rf"00001\.tar: \S+ can't be read from its copy in {copy} \(No such file"):
        read_batches(staged)


def test_stored_pixels_are_not_resized(pixel_shards):
    with pytest.raises(UserError, match=r"stored as 48x48 pixels; set data\.image_size to that"):
        read_batches(open_pictures(pixel_shards, image_size=64, crop_size=60))


def with_index(shards, tmp_path, change):
    """Copy DIR and change the table of its index."""
    out = tmp_path / "changed"
    shutil.copytree(shards, out)
    index = ShardIndex.load(out)
    write_index(out / "index.parquet", [change(index.table)], index.metadata)
    return out


def test_missing_and_damaged_shards_are_errors_with_a_remedy(pixel_shards, tmp_path):
    with pytest.raises(UserError, match=r"nowhere/index\.parquet: no such file; make it with: shards assemble"):
        open_index(data_config("nowhere"))
    index = open_index(data_config(pixel_shards))
    with pytest.raises(UserError, match=r"split 'val'; it has test, train: choose one with --data\.split$"):
        open_split(index, "val")
    with pytest.raises(UserError, match=r"choose one with --data\.test\.split, or '' to train without tests$"):
        open_split(index, "val", "--data.test.split")
    gone = tmp_path / "gone"
    shutil.copytree(pixel_shards, gone)
    (gone / "train" / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"train/00001\.tar is missing; restore it, or assemble again into"):
        open_split(open_index(data_config(gone)), "train")
    (gone / "train" / "00001.tar").write_bytes(b"short")
    with pytest.raises(UserError, match="is shorter than the index says"):
        open_split(open_index(data_config(gone)), "train")
    (gone / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"can't be read as an index.*shards finalize"):
        open_index(data_config(gone))


def test_a_label_without_a_class_is_an_error(pixel_shards, tmp_path):
    def relabel(table):
        labels = table["label"].to_numpy().copy()
        labels[0] = 4
        return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int32()))

    changed = with_index(pixel_shards, tmp_path, relabel)
    split = pq.read_table(changed / "index.parquet")["split"][0].as_py()
    with pytest.raises(UserError, match="has label 4, outside the 4 classes; fix the list"):
        open_split(open_index(data_config(changed)), split)


def test_more_shards_than_the_limit_of_open_files_can_be_read(pixel_shards, monkeypatch):
    monkeypatch.setattr("stylefinetune.data.picture_reader.MAX_OPEN_SHARDS", 1)
    expected = read_batches(open_pictures(pixel_shards, shuffle=True))
    assert len({*itertools.chain(open_pictures(pixel_shards).entries.shard)}) > 1
    for batch, again in zip(expected, read_batches(open_pictures(pixel_shards, shuffle=True)), strict=True):
        assert torch.equal(batch.pictures, again.pictures)


def test_pictures_of_one_size_need_no_resizing(pixel_shards, original_shards):
    (stored,) = read_batches(open_pictures(pixel_shards, image_size=0, crop_size=0), stop=10)
    (same,) = read_batches(open_pictures(pixel_shards), stop=10)
    assert torch.equal(stored.pictures, same.pictures)
    assert stored.crops.size == (48, 48)
    with pytest.raises(UserError, match=r"is \d+x\d+, \S+ \d+x\d+; set data\.image_size to resize them to one size"):
        open_pictures(original_shards, image_size=0, crop_size=0)
    with pytest.raises(UserError, match="holds pictures of 48x48, smaller than the crop of 50"):
        open_pictures(pixel_shards, image_size=0, crop_size=50)


def test_pictures_may_be_rectangular(original_shards):
    tall = open_pictures(original_shards, image_size=(60, 40), crop_size=30)
    (batch,) = read_batches(tall, stop=10)
    assert batch.pictures.shape == (10, 60, 40, 3)
    assert batch.crops.size == (30, 30)
    more = read_batches(tall, stop=400)
    assert max(b.crops.top.max().item() for b in more) == 30
    assert max(b.crops.left.max().item() for b in more) == 10
    (central,) = read_batches(
        open_pictures(original_shards, image_size=(60, 40), crop_size=30, training=False), stop=10
    )
    assert (central.crops.top[0].item(), central.crops.left[0].item()) == (15, 5)


def test_test_pictures_can_be_mirrored_and_shuffled(pixel_shards):
    own = TestDataConfig(mirror=True, shuffle=True)
    (plain,) = read_batches(open_pictures(pixel_shards, split="test", training=False), stop=10)
    (other,) = read_batches(open_pictures(pixel_shards, split="test", training=False, test=own), stop=10)
    assert other.crops.mirror.any()
    assert other.labels.tolist() != plain.labels.tolist()
    assert other.crops.top.unique().tolist() == [2]
