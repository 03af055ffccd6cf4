import dataclasses
import shutil

from shards.format.index import ShardIndex
from shards.format.order import RankBatchSampler
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.distributed.world import World
from stylefinetune.testing.split_pass import WholeBatches, progress_bar, read_once
from stylefinetune.testing.test_set import TestSet

SLICES = RankBatchSampler(0, 11, 4, rank=0, world_size=1)


def test_ranks_take_whole_batches_in_turn():
    samplers = [WholeBatches(0, 11, 4, rank=0, world_size=1, reader=reader, readers=2) for reader in (0, 1)]
    assert list(samplers[0]) == [[0, 1, 2, 3], [8, 9, 10]]
    assert list(samplers[1]) == [[4, 5, 6, 7]]
    assert [list(sampler.sizes()) for sampler in samplers] == [[4, 3], [4]]


def test_each_picture_is_read_once_in_order(trained):
    test = TestSet.open(read_checkpoint(trained))
    world = World.alone()
    with read_once(test.saved, test.index, test.pictures, SLICES, world, 0) as batches:
        read = [position for batch in batches for position in batch.positions.tolist()]
    assert read == list(range(11))
    assert world.heartbeat.state.activity == "testing"
    world.shutdown()


def test_corrupt_pictures_are_reported_at_the_end(trained, original_shards, tmp_path, capsys):
    shutil.copytree(original_shards, shards := tmp_path / "DIR")
    entries = ShardIndex.load(shards).entries("test")
    with (shards / entries.shard[3]).open("r+b") as tar:
        tar.seek(int(entries.offset[3]))
        tar.write(bytes(int(entries.length[3])))
    saved = read_checkpoint(trained)
    config = dataclasses.replace(saved.config, data=dataclasses.replace(saved.config.data, max_corrupt=0.5))
    saved = dataclasses.replace(saved, config=config)
    index, world = ShardIndex.load(shards), World.alone()
    pictures = PictureDataset(entries, config.data.phase(training=False), 0)
    with read_once(saved, index, pictures, SLICES, world, 0) as batches:
        labels = [label for batch in batches for label in batch.labels.tolist()]
        assert capsys.readouterr().err == ""
    world.shutdown()
    assert labels.count(-100) == 1
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_bar_is_shown_on_a_terminal_only(capsys):
    world = World.alone()
    with progress_bar("pictures", 2, world) as advance:
        advance(1)
    world.shutdown()
    assert capsys.readouterr().err == ""
