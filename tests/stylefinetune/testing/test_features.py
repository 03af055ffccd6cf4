import numpy as np
import torch

from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.distributed.world import World
from stylefinetune.features import features
from stylefinetune.testing.features import _pool, collect_features
from stylefinetune.testing.test_set import TestSet


def test_they_are_what_the_command_features_writes(trained, pixel_shards, tmp_path):
    features([str(trained), str(pixel_shards), "--split=test", f"--out={tmp_path / 'x.npy'}"])
    test, world = TestSet.open(read_checkpoint(trained)), World.alone()
    found = collect_features(test.saved, test.index, test.pictures, world, 0, "features")
    world.shutdown()
    np.testing.assert_allclose(found.values.numpy(), np.load(tmp_path / "x.npy"), rtol=1e-5, atol=1e-6)
    assert found.labels.tolist() == ShardIndex.load(pixel_shards).entries("test").label.tolist()
    assert found.layer == "input of fc8_flickr"


def test_of_a_feature_map_the_mean_is_taken():
    assert _pool(torch.arange(8.0).reshape(1, 2, 2, 2)).tolist() == [[1.5, 5.5]]
    assert _pool(torch.zeros(3, 2, 5)).shape == (3, 10)
