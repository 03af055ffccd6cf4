import itertools

import pytest

from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.data.sampler import sampler_for_testing, sampler_for_training


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def config(**train):
    return Config(data=DataConfig(batch_size=10), train=TrainConfig(max_iter=7, **train))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 16])
def test_all_ranks_together_read_the_same_as_one_rank(world_size):
    expected = list(sampler_for_training(config(), 2, 0, 1))
    parts = [list(sampler_for_training(config(), 2, rank, world_size)) for rank in range(world_size)]
    assert [flat(batch) for batch in zip(*parts, strict=True)] == expected
    assert expected[0] == list(range(20, 30))
    assert len(expected) == 5


def test_each_iteration_has_iter_size_batches():
    batches = list(sampler_for_training(config(iter_size=2), 3, 0, 1))
    assert len(batches) == 8 == len(sampler_for_training(config(iter_size=2), 3, 0, 1))
    assert batches[0][0] == 3 * 2 * 10


def test_a_full_test_reads_every_picture_once():
    batches = sampler_for_testing(config(), 23, 5, 0, 1)
    assert flat(batches) == list(range(23))
    assert list(batches.sizes()) == [10, 10, 3]


def test_each_partial_test_continues_after_the_previous_one():
    starts = [sampler_for_testing(config(test_iter=4, test_interval=20), 150, i, 0, 1).start for i in (0, 20, 40, 55)]
    assert starts == [0, 40, 80, 120]
    later = config(test_iter=4, test_interval=20, test_initialization=False)
    assert [sampler_for_testing(later, 150, i, 0, 1).start for i in (20, 40)] == [0, 40]
    at_the_end = config(test_iter=4, test_interval=0)
    assert sampler_for_testing(at_the_end, 150, 7, 0, 1).start == 40


def test_training_reads_partners_only_to_mix_pictures():
    assert not sampler_for_training(config(), 0, 0, 2).partners
    mixed = Config(data=DataConfig(batch_size=10, mixup=0.2), train=TrainConfig(max_iter=7))
    assert sampler_for_training(mixed, 0, 0, 2).partners
