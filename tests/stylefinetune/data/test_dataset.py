import dataclasses
import itertools
import os
import resource
import shutil
import signal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shards.format.index import ShardIndex, write_index
from stylefinetune.caffe.schema import message_class
from stylefinetune.config.data import DataConfig, TestDataConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.mean import load_mean
from stylefinetune.data.sampler import CORRUPT_LABEL, BatchSlices
from stylefinetune.errors import DataError, UserError, ran_out_of_memory
from tests.programs import assemble

CPU = torch.device("cpu")


def config(shards, **changes):
    return DataConfig(**{"shards": str(shards), "image_size": 48, "crop_size": 43, **changes})


def pictures(shards, *, training=True, split="train", **changes):
    data = config(shards, **changes)
    phase = dataclasses.replace(data.phase(training=training), split=split)
    return PictureDataset(open_split(open_index(data), split), phase, seed=7)


def mean_of(data, size=(48, 48), *, training=True):
    return load_mean(data, data.phase(training=training), size)


def batches(picture_set, start=0, stop=60, rank=0, world_size=1, workers=0):
    return list(load_batches(picture_set, BatchSlices(start, stop, 10, rank, world_size), workers, CPU))


def test_originals_and_pixels_give_bitwise_the_same_batches(pixel_shards, original_shards):
    for from_pixels, from_originals in zip(
        batches(pictures(pixel_shards)), batches(pictures(original_shards)), strict=True
    ):
        assert torch.equal(from_pixels.pictures, from_originals.pictures)
        assert torch.equal(from_pixels.labels, from_originals.labels)
        assert torch.equal(from_pixels.crops.top, from_originals.crops.top)
        assert torch.equal(from_pixels.crops.mirror, from_originals.crops.mirror)


def test_a_jpg_of_the_same_size_is_close_and_another_size_is_resized(drawn, pixel_shards, tmp_path):
    assemble(*drawn.lists, "--out", tmp_path / "jpg", "--encode_format=jpg", "--image_size=48", "--rows_per_shard=20")
    (lossy,) = batches(pictures(tmp_path / "jpg"), stop=10)
    (exact,) = batches(pictures(pixel_shards), stop=10)
    assert (lossy.pictures.float() - exact.pictures.float()).abs().mean() < 12
    (larger,) = batches(pictures(tmp_path / "jpg", image_size=64), stop=10)
    assert larger.pictures.shape == (10, 64, 64, 3)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("window", [0, 2])
def test_any_ranks_and_workers_see_the_same_pictures_crops_and_mirrors(pixel_shards, workers, window):
    shuffled = {"shuffle": True, "shuffle_window": window}
    whole = batches(pictures(pixel_shards, **shuffled))
    parts = [batches(pictures(pixel_shards, **shuffled), rank=rank, world_size=3, workers=workers) for rank in range(3)]
    for batch, *slices in zip(whole, *parts, strict=True):
        assert [part.size for part in slices] == [10, 10, 10]
        for field in ("pictures", "labels", "positions"):
            assert torch.equal(getattr(batch, field), torch.cat([getattr(part, field) for part in slices]))
        for field in ("top", "left", "mirror"):
            assert torch.equal(getattr(batch.crops, field), torch.cat([getattr(part.crops, field) for part in slices]))


@pytest.mark.parametrize("window", [0, 2])
def test_a_resumed_reader_goes_on_where_the_run_was(pixel_shards, window):
    whole = batches(pictures(pixel_shards, shuffle=True, shuffle_window=window), stop=100)
    later = batches(pictures(pixel_shards, shuffle=True, shuffle_window=window), start=70, stop=100)
    for ours, theirs in zip(later, whole[7:], strict=True):
        assert torch.equal(ours.pictures, theirs.pictures)
        assert torch.equal(ours.crops.left, theirs.crops.left)


def test_crops_are_random_in_training_and_central_in_testing(pixel_shards):
    drawn = batches(pictures(pixel_shards), stop=400)
    tops = torch.cat([batch.crops.top for batch in drawn])
    assert sorted(tops.unique().tolist()) == [0, 1, 2, 3, 4, 5]
    mirrored = torch.cat([batch.crops.mirror for batch in drawn]).float().mean()
    assert 0.4 < mirrored < 0.6
    (central,) = batches(pictures(pixel_shards, training=False), stop=10)
    assert central.crops.top.unique().tolist() == [2]
    assert not central.crops.mirror.any()
    (plain,) = batches(pictures(pixel_shards, mirror=False), stop=10)
    assert not plain.crops.mirror.any()
    (other,) = batches(pictures(pixel_shards, training=False, test=TestDataConfig(crop_size=40)), stop=10)
    assert (other.crops.size, other.crops.top.unique().tolist()) == ((40, 40), [4])


def test_labels_and_order_are_the_lists(pixel_shards, drawn):
    entries = open_split(open_index(config(pixel_shards)), "train")
    index = ShardIndex.load(pixel_shards)
    listed = [int(line.rsplit(" ", 1)[1]) for line in (drawn.folder / "train.txt").read_text().splitlines()]
    rows = index.table.filter(pa.compute.equal(index.table["split"], "train"))["row"].to_pylist()
    assert [listed[row] for row in rows] == entries.label.tolist()
    found = torch.cat([batch.labels for batch in batches(pictures(pixel_shards), stop=41)])
    assert found.tolist() == entries.label.tolist()


def test_a_window_takes_one_shard_after_the_other_and_each_from_front_to_back(pixel_shards):
    shuffled = pictures(pixel_shards, shuffle=True, shuffle_window=1)
    rows = [shuffled.order.row(n) for n in range(41)]
    read = [(shuffled.entries.shard[row], int(shuffled.entries.offset[row])) for row in rows]
    for shard in set(shuffled.entries.shard):
        places = [place for place, (name, _) in enumerate(read) if name == shard]
        assert places == list(range(places[0], places[-1] + 1))
        offsets = [read[place][1] for place in places]
        assert offsets == sorted(offsets)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_slice_without_pictures_is_an_empty_batch(pixel_shards, workers):
    (empty,) = load_batches(pictures(pixel_shards), BatchSlices(0, 2, 2, 2, 3), workers, CPU)
    assert empty.pictures.shape == (0, 48, 48, 3)
    assert (len(empty.labels), empty.size) == (0, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_stands_blank_without_a_label_in_a_batch_of_the_same_size(original_shards, tmp_path, workers):
    shards = tmp_path / "damaged"
    shutil.copytree(original_shards, shards)
    damaged = pictures(shards)
    entries = damaged.entries
    with (shards / entries.shard[3]).open("r+b") as tar:
        tar.seek(int(entries.offset[3]))
        tar.write(b"\0" * int(entries.length[3]))
    whole, found = batches(pictures(original_shards))[0], batches(damaged, workers=workers)[0]
    assert found.corrupt == (3,)
    assert (found.labels[3], found.pictures[3].max(), found.size) == (CORRUPT_LABEL, 0, 10)
    others = [place for place in range(10) if place != 3]
    assert torch.equal(found.pictures[others], whole.pictures[others])
    assert torch.equal(found.labels[others], whole.labels[others])
    assert damaged.name(3) == f"{shards / entries.shard[3]}: {entries.key[3]}"


def test_a_shard_that_goes_away_under_a_run_is_one_line(original_shards, tmp_path):
    shards = tmp_path / "gone"
    shutil.copytree(original_shards, shards)
    opened = pictures(shards)
    shutil.rmtree(shards / "train")
    with pytest.raises(DataError, match=r"00000\.tar: \S+ can't be read \(No such file or directory\); is the shard"):
        batches(opened)


def test_a_shard_that_is_cut_short_under_a_run_is_no_corrupt_picture(original_shards, tmp_path):
    shards = shutil.copytree(original_shards, tmp_path / "cut")
    opened = pictures(shards)
    os.truncate(shards / opened.entries.shard[3], int(opened.entries.offset[3]) + 9)
    with pytest.raises(DataError, match=rf"{opened.name(3)} can't be read \(the shard has become shorter than"):
        batches(opened)


def test_a_copy_of_the_shards_is_read_and_the_shards_themselves_are_named(original_shards, tmp_path):
    shards, copy = shutil.copytree(original_shards, tmp_path / "DIR"), tmp_path / "copy"
    data = config(shards)
    staged = PictureDataset(open_split(open_index(data), "train"), data.phase(training=True), 7, copy)
    (shards / "train").rename(copy)
    copy.rename(tmp_path / "train")
    copy.mkdir()
    (tmp_path / "train").rename(copy / "train")
    for from_copy, from_shards in zip(batches(staged), batches(pictures(original_shards)), strict=True):
        assert torch.equal(from_copy.pictures, from_shards.pictures)
    assert staged.name(0).startswith(f"{shards}/train/00000.tar: ")
    (copy / "train" / "00001.tar").unlink()
    staged._files.clear()
    with pytest.raises(DataError, match=rf"00001\.tar: \S+ can't be read from its copy in {copy} \(No such file"):
        batches(staged)


@pytest.mark.parametrize("whose", ["worker", "rank"])
def test_memory_that_is_refused_is_told_as_whose_it_is_instead_of_waited_for(pixel_shards, whose):
    others = psutil.Process().children()
    decoded = load_batches(pictures(pixel_shards), BatchSlices(0, 40000, 10, 0, 1), 1, CPU)
    (worker,) = (child for child in psutil.Process().children() if child not in others)
    next(decoded)
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.prlimit(worker.pid if whose == "worker" else 0, resource.RLIMIT_AS, (0, before[1]))
        line = r"a decoding process has failed: .*allocate memory" if whose == "worker" else r"unable to mmap"
        with pytest.raises(DataError if whose == "worker" else RuntimeError, match=line) as error:
            list(decoded)
        assert isinstance(error.value, DataError) or ran_out_of_memory(error.value)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Failing(PictureDataset):
    """Pictures at which a decoding process fails, as `act` has it."""

    act = staticmethod(lambda: None)

    def __getitems__(self, positions):
        if 20 in positions:
            self.act()
        return super().__getitems__(positions)


def run_out_of_memory():
    raise MemoryError("can't take\n40 GB")


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (run_out_of_memory, r"a decoding process has failed: .*40 GB; out of memory\? lower data\.workers"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            r"has failed: (DataLoader worker .*(killed by signal|exited unexpectedly)|.*Connection reset)",
        ),
    ],
    ids=["exception", "killed"],
)
def test_a_decoding_process_that_fails_is_one_line(pixel_shards, monkeypatch, act, line):
    monkeypatch.setattr(Failing, "act", staticmethod(act))
    data = config(pixel_shards)
    failing = Failing(open_split(open_index(data), "train"), data.phase(training=True), seed=7)
    with pytest.raises(DataError, match=line) as error:
        batches(failing, workers=1)
    assert "\n" not in str(error.value)


def test_pixels_of_another_size_are_refused(pixel_shards):
    with pytest.raises(UserError, match=r"stored as 48x48 pixels; set data\.image_size to that"):
        batches(pictures(pixel_shards, image_size=64, crop_size=60))


def rewritten(shards, tmp_path, change):
    """Copies DIR with another index."""
    out = tmp_path / "changed"
    shutil.copytree(shards, out)
    index = ShardIndex.load(out)
    write_index(out / "index.parquet", [change(index.table)], index.metadata)
    return out


def test_mistakes_in_the_shards_are_one_line_with_a_remedy(pixel_shards, tmp_path):
    with pytest.raises(
        UserError, match=r"nowhere/index\.parquet: no such file; make it with: python -m shards assemble"
    ):
        open_index(config("nowhere"))
    index = open_index(config(pixel_shards))
    with pytest.raises(UserError, match=r"no pictures of split 'val' \(there: test, train\)"):
        open_split(index, "val")
    gone = tmp_path / "gone"
    shutil.copytree(pixel_shards, gone)
    (gone / "train" / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"train/00001\.tar is missing; restore it, or assemble again into"):
        open_split(open_index(config(gone)), "train")
    (gone / "train" / "00001.tar").write_bytes(b"short")
    with pytest.raises(UserError, match="is shorter than the index says"):
        open_split(open_index(config(gone)), "train")
    (gone / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"can't be read as an index.*python -m shards finalize"):
        open_index(config(gone))


def test_a_label_outside_the_classes_is_one_line(pixel_shards, tmp_path):
    def relabel(table):
        labels = table["label"].to_numpy().copy()
        labels[0] = 4
        return table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels, pa.int32()))

    changed = rewritten(pixel_shards, tmp_path, relabel)
    split = pq.read_table(changed / "index.parquet")["split"][0].as_py()
    with pytest.raises(UserError, match="has label 4, outside the 4 classes; mend the list"):
        open_split(open_index(config(changed)), split)


def test_the_mean_is_the_train_splits_picture(pixel_shards):
    mean = mean_of(config(pixel_shards))
    whole = torch.cat([batch.pictures for batch in batches(pictures(pixel_shards), stop=41)])
    assert mean.shape == (48, 48, 3)
    assert torch.allclose(mean, whole.double().mean(0).float(), atol=1e-4)


def test_mean_levels_are_given_as_bgr_and_held_as_rgb(pixel_shards):
    assert mean_of(config(pixel_shards, mean_value=(104, 117, 123))).flatten().tolist() == [123, 117, 104]
    assert mean_of(config(pixel_shards, mean_value=(9,))).flatten().tolist() == [9, 9, 9]


def test_a_mean_that_cannot_serve_is_one_line(original_shards, golden, tmp_path):
    missing = config(tmp_path)
    with pytest.raises(UserError, match=r"mean\.npy: no such mean picture; make it with: python -m shards mean"):
        mean_of(missing)
    with pytest.raises(UserError, match=r"is 48x48x3; the pictures \(data\.image_size\) are 64x64x3"):
        mean_of(config(original_shards, image_size=64), (64, 64))
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be read as a mean picture"):
        mean_of(config(original_shards, mean_file=str(broken)))
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="can't be read as a mean picture"):
        mean_of(config(original_shards, mean_file=str(objects)))
    caffes = mean_of(config(original_shards, mean_file=str(golden / "micro" / "mean.binaryproto")), (80, 80))
    assert caffes.shape == (80, 80, 3)


def test_caffes_published_mean_is_called_by_its_name(original_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named = config(original_shards, mean_file="imagenet_mean", image_size=256)
    with pytest.raises(UserError, match=r"fetch it with: python -m stylefinetune\.weights imagenet_mean"):
        mean_of(named, (256, 256))
    blob = message_class("BlobProto")(num=1, channels=3, height=256, width=256, data=range(3 * 256 * 256))
    (tmp_path / "stylefinetune").mkdir()
    (tmp_path / "stylefinetune" / "imagenet_mean.binaryproto").write_bytes(blob.SerializeToString())
    assert mean_of(named, (256, 256))[0, 0].tolist() == [2 * 65536, 65536, 0]


def test_more_shards_than_may_be_open_are_read(pixel_shards, monkeypatch):
    monkeypatch.setattr("stylefinetune.data.dataset.MAX_OPEN_SHARDS", 1)
    expected = batches(pictures(pixel_shards, shuffle=True))
    assert len({*itertools.chain(pictures(pixel_shards).entries.shard)}) > 1
    for batch, again in zip(expected, batches(pictures(pixel_shards, shuffle=True)), strict=True):
        assert torch.equal(batch.pictures, again.pictures)


def test_pictures_may_be_left_as_stored_where_they_are_of_one_size(pixel_shards, original_shards):
    (stored,) = batches(pictures(pixel_shards, image_size=0, crop_size=0), stop=10)
    (same,) = batches(pictures(pixel_shards), stop=10)
    assert torch.equal(stored.pictures, same.pictures)
    assert stored.crops.size == (48, 48)
    with pytest.raises(UserError, match=r"is \d+x\d+, \S+ \d+x\d+; set data\.image_size to bring them to one size"):
        pictures(original_shards, image_size=0, crop_size=0)
    with pytest.raises(UserError, match="holds pictures of 48x48, smaller than the crop of 50"):
        pictures(pixel_shards, image_size=0, crop_size=50)


def test_pictures_need_not_be_square(original_shards):
    tall = pictures(original_shards, image_size=(60, 40), crop_size=30)
    (batch,) = batches(tall, stop=10)
    assert batch.pictures.shape == (10, 60, 40, 3)
    assert batch.crops.size == (30, 30)
    more = batches(tall, stop=400)
    assert max(b.crops.top.max().item() for b in more) == 30
    assert max(b.crops.left.max().item() for b in more) == 10
    (central,) = batches(pictures(original_shards, image_size=(60, 40), crop_size=30, training=False), stop=10)
    assert (central.crops.top[0].item(), central.crops.left[0].item()) == (15, 5)


def test_testing_may_be_mirrored_and_shuffled_too(pixel_shards):
    own = TestDataConfig(mirror=True, shuffle=True)
    (plain,) = batches(pictures(pixel_shards, split="test", training=False), stop=10)
    (other,) = batches(pictures(pixel_shards, split="test", training=False, test=own), stop=10)
    assert other.crops.mirror.any()
    assert other.labels.tolist() != plain.labels.tolist()
    assert other.crops.top.unique().tolist() == [2]
