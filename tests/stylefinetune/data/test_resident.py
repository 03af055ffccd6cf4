import dataclasses
import shutil

import pytest
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.data import resident
from stylefinetune.data.loader import load_batches
from stylefinetune.data.resident import ResidentLoader, resident_bytes
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.transforms import Transform
from stylefinetune.errors import DataError
from tests.stylefinetune.data.loading import CPU, open_pictures


def load_resident(dataset, device=CPU, workers=0):
    loader = ResidentLoader(dataset, device)
    assert list(loader.fill(workers))[-1] == len(dataset.entries)
    return loader


def assert_equal(found, expected):
    """Check that a batch of resident pictures is, bit for bit, the loader's."""
    crops = dataclasses.replace(found.crops, rows=None).to(CPU)
    for field in ("top", "left", "mirror"):
        mine, other = getattr(crops, field), getattr(expected.crops, field)
        assert (mine.dtype, mine.tolist()) == (other.dtype, other.tolist())
    assert (crops.size, found.size, found.corrupt) == (expected.crops.size, expected.size, expected.corrupt)
    for mine, other in ((found.labels, expected.labels), (found.positions, expected.positions)):
        assert (mine.dtype, mine.tolist()) == (other.dtype, other.tolist())
    assert torch.equal(found.pictures[found.crops.rows].cpu(), expected.pictures)


def compare(dataset, samplers, device=CPU):
    """Compare all batches of the samplers, and return how many there were."""
    loader, count = load_resident(dataset, device), 0
    for sampler in samplers:
        fed = load_batches(dataset, sampler, 0, CPU)
        for found, expected in zip(loader.load(sampler), fed, strict=True):
            assert_equal(found, expected)
            count += 1
    return count


@pytest.fixture
def damaged_shards(original_shards, tmp_path):
    """Shards in which the pictures of rows 3 and 30 can't be decoded."""
    shards = tmp_path / "damaged"
    shutil.copytree(original_shards, shards)
    entries = open_pictures(shards).entries
    for row in (3, 30):
        with (shards / entries.shard[row]).open("r+b") as tar:
            tar.seek(int(entries.offset[row]))
            tar.write(b"\0" * int(entries.length[row]))
    return shards


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [{}, {"shuffle": True}, {"shuffle": True, "shuffle_window": 2}, {"shuffle": True, "mirror": False}],
    ids=str,
)
def test_batches_are_bit_for_bit_those_of_the_loader(pixel_shards, settings, ranks, monkeypatch):
    """From the middle of an epoch over two ends of one, with slices of other sizes, in several tables."""
    monkeypatch.setattr(resident, "_TABLE", 4)
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


def test_several_processes_may_decode(pixel_shards):
    dataset = open_pictures(pixel_shards)
    one, two = (load_resident(dataset, workers=workers) for workers in (0, 2))
    assert torch.equal(one.pictures, two.pictures)


def test_the_transform_of_both_is_the_same(pixel_shards):
    dataset, sampler = open_pictures(pixel_shards, shuffle=True), RankBatchSampler(0, 50, 10, 0, 1)
    transform = Transform(torch.rand(48, 48, 3) * 255, 0.017, CPU)
    fed = load_batches(dataset, sampler, 0, CPU)
    for found, expected in zip(load_resident(dataset).load(sampler), fed, strict=True):
        assert torch.equal(transform(found.pictures, found.crops), transform(expected.pictures, expected.crops))


def test_the_memory_is_that_of_the_pixels(pixel_shards):
    dataset = open_pictures(pixel_shards)
    assert resident_bytes(dataset) == load_resident(dataset).pictures.nbytes == 41 * 48 * 48 * 3


def test_a_shard_that_is_missing_is_a_data_error(original_shards, tmp_path):
    shards = tmp_path / "gone"
    shutil.copytree(original_shards, shards)
    dataset = open_pictures(shards)
    shutil.rmtree(shards / "train")
    with pytest.raises(DataError, match=r"00000\.tar: \S+ can't be read"):
        load_resident(dataset)


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
