"""The positions that training and testing read; what is read at a position is in `shards.format.order`."""

import math

from shards.format.order import RankBatchSampler
from stylefinetune.config.schema import Config, TrainConfig

CORRUPT_LABEL = -100
"""Label of a picture that can't be decoded: it has no loss and isn't counted, and its batch keeps its size."""


def sampler_for_training(config: Config, start: int, rank: int, world_size: int) -> RankBatchSampler:
    """Return the sampler from iteration `start` to the end of the run; iter_size batches per iteration."""
    pictures = config.pictures_per_iteration
    stop = config.train.max_iter * pictures
    batch_size, partners = config.data.batch_size, config.data.is_mixed
    return RankBatchSampler(start * pictures, stop, batch_size, rank, world_size, partners)


def sampler_for_testing(config: Config, rows: int, iteration: int, rank: int, world_size: int) -> RankBatchSampler:
    """Return the sampler of the test at `iteration`: every picture once, or the next train.test_iter batches.

    As in Caffe, each test starts at the picture after the previous test's last one. The number of previous tests
    follows from the iteration.
    """
    size = config.data.phase(training=False).batch_size
    if config.train.test_iter == 0:
        return RankBatchSampler(0, rows, size, rank, world_size)
    pictures = config.train.test_iter * size
    start = _count_previous_tests(config.train, iteration) * pictures
    return RankBatchSampler(start, start + pictures, size, rank, world_size)


def _count_previous_tests(train: TrainConfig, iteration: int) -> int:
    if train.test_interval == 0:
        return int(train.test_initialization and iteration > 0)
    skipped = 0 if train.test_initialization else 1
    return max(0, math.ceil(iteration / train.test_interval) - skipped)
