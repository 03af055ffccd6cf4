import pytest
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.data.loader import load_batches
from stylefinetune.data.resident import loader as resident_loader
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.transforms import Transform
from tests.stylefinetune.data.loading import CPU, open_pictures
from tests.stylefinetune.data.resident.comparing import assert_equal, load_resident


def compare(dataset, samplers, device=CPU):
    """Compare all batches of the samplers, and return how many there were."""
    loader, count = load_resident(dataset, device), 0
    for sampler in samplers:
        fed = load_batches(dataset, sampler, 0, CPU)
        for found, expected in zip(loader.load(sampler), fed, strict=True):
            assert_equal(found, expected)
            count += 1
    return count


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [{}, {"shuffle": True}, {"shuffle": True, "shuffle_window": 2}, {"shuffle": True, "mirror": False}],
    ids=str,
)
def test_batches_are_bit_for_bit_those_of_the_loader(pixel_shards, settings, ranks, monkeypatch):
    """From the middle of an epoch over two ends of one, with slices of other sizes, in several tables."""
    monkeypatch.setattr(resident_loader, "_TABLE", 4)
    dataset = open_pictures(pixel_shards, **settings)
    samplers = [RankBatchSampler(20, 117, 10, rank, ranks) for rank in range(ranks)]
    assert compare(dataset, samplers) == 10 * ranks


def test_a_rank_without_pictures_has_empty_batches(pixel_shards):
    assert compare(open_pictures(pixel_shards), [RankBatchSampler(0, 10, 2, 2, 3)]) == 5


def test_test_pictures_are_cropped_at_the_centre_and_the_last_batch_is_smaller(pixel_shards):
    dataset = open_pictures(pixel_shards, training=False, split="test")
    assert compare(dataset, [RankBatchSampler(0, 11, 4, rank, 2) for rank in range(2)]) == 6


def test_corrupt_pictures_are_the_same(damaged_shards):
    dataset = open_pictures(damaged_shards, shuffle=True)
    compare(dataset, [RankBatchSampler(0, 100, 10, 0, 1)])
    batches = list(load_resident(dataset).load(RankBatchSampler(0, 41, 41, 0, 1)))
    assert sorted(batches[0].corrupt) == [3, 30]
    assert (batches[0].labels == CORRUPT_LABEL).sum() == 2


def test_the_transform_of_both_is_the_same(pixel_shards):
    dataset, sampler = open_pictures(pixel_shards, shuffle=True), RankBatchSampler(0, 50, 10, 0, 1)
    transform = Transform(torch.rand(48, 48, 3) * 255, 0.017, CPU)
    fed = load_batches(dataset, sampler, 0, CPU)
    for found, expected in zip(load_resident(dataset).load(sampler), fed, strict=True):
        assert torch.equal(transform(found.pictures, found.crops), transform(expected.pictures, expected.crops))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_bit_for_bit_those_of_the_loader(damaged_shards):
    device = torch.device("cuda")
    dataset = open_pictures(damaged_shards, shuffle=True)
    samplers = [RankBatchSampler(20, 117, 10, rank, 3) for rank in range(3)]
    assert compare(dataset, samplers, device) == 30
    transforms = [Transform(torch.full((1, 1, 3), 110.0), 1.0, each) for each in (device, CPU)]
    loader, fed = load_resident(dataset, device, workers=2), load_batches(dataset, samplers[0], 0, CPU)
    for found, expected in zip(loader.load(samplers[0]), fed, strict=True):
        ours, theirs = (
            each(batch.pictures, batch.crops) for each, batch in zip(transforms, (found, expected), strict=True)
        )
        assert torch.equal(ours.cpu(), theirs)
