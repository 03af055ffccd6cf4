import pytest
import torch

from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.evaluation.baselines.baselines import rank_by_baselines, score_ranks
from stylefinetune.testing.baselines import BaselineTest, check_one_label
from stylefinetune.testing.features import collect_features
from stylefinetune.testing.test_set import TestSet, Views


@pytest.fixture(scope="module")
def test_set(trained):
    return TestSet.open(read_checkpoint(trained))


def test_the_classifiers_are_fitted_to_the_split_and_score_the_test(test_set):
    world = World.alone()
    found = BaselineTest.open(test_set, "train").run(world, workers=0)
    train = TestSet.open(test_set.saved, split="train")
    fitted, tested = (
        collect_features(each.saved, each.index, each.pictures, world, 0, "features") for each in (train, test_set)
    )
    world.shutdown()
    seed = test_set.saved.progress.seed
    ranks = rank_by_baselines(fitted, tested, 4, seed, torch.device("cpu"), lambda: None)
    assert (found.pictures, found.available, found.count, found.dimensions) == (41, 41, 11, 32)
    assert (found.split, found.layer, found.neighbours) == ("train", "input of fc8_flickr", 20)
    assert (found.knn, found.linear_probe) == (score_ranks(ranks.knn), score_ranks(ranks.linear_probe))
    assert found.penalty == ranks.penalty


def test_pictures_are_drawn_by_the_seed_and_a_larger_draw_has_those_of_a_smaller_one(test_set):
    def keys(limit):
        entries = BaselineTest.open(test_set, "train", limit).training.entries
        return [entries.key[row] for row in range(len(entries))]

    drawn = keys(10)
    assert len(set(drawn)) == 10
    assert drawn == keys(10) == [key for key in keys(20) if key in set(drawn)]
    assert drawn != keys(41)[:10]
    assert keys(0) == keys(41) == keys(1000)


def test_the_pictures_are_cropped_once(trained):
    test = TestSet.open(read_checkpoint(trained), views=Views(10, flip=True))
    opened = BaselineTest.open(test, "train")
    assert opened.training.input_size == opened.tested.input_size == test.pictures.input_size


@pytest.mark.parametrize(
    ("split", "limit", "message"),
    [
        ("test", 0, r"^--baselines is test, the split of the test; choose another one to fit them to$"),
        ("val", 0, r"no pictures of split 'val'; it has test, train: choose one with --baselines$"),
        ("train", 1, r"^--baseline_pictures is 1; it must be at least 2, or 0 for all pictures$"),
        ("train", -1, r"^--baseline_pictures is -1; it must"),
    ],
)
def test_a_wrong_split_or_number_is_one_line(test_set, split, limit, message):
    with pytest.raises(UserError, match=message):
        BaselineTest.open(test_set, split, limit)


def test_pictures_with_several_labels_are_refused(test_set, label_shards):
    index = ShardIndex.load(label_shards)
    pictures = PictureDataset(index.entries("test"), test_set.pictures.phase, 0)
    several = TestSet(test_set.saved, index, pictures, Views())
    with pytest.raises(UserError, match=r"^--baselines needs pictures with one label, and those of .* have several"):
        BaselineTest.open(several, "train")
    with pytest.raises(UserError, match=r"^--suspects needs pictures with one label"):
        check_one_label(several, "--suspects")
