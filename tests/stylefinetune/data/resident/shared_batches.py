"""A program of several ranks: compares batches of shared pictures with batches that are read. Argument: the shards."""

import sys

from shards.format.order import RankBatchSampler, rank_slice
from stylefinetune.data.loader import load_batches
from stylefinetune.data.resident.shares import SharedLoader
from stylefinetune.distributed.world import World
from tests.stylefinetune.data.loading import CPU, open_pictures
from tests.stylefinetune.data.resident.comparing import assert_equal, decode

# Settings of the dataset; start, stop and size of the batches. The last ones are smaller, or leave ranks without any.
CASES = [
    ({}, (20, 117, 10)),
    ({"shuffle": True}, (20, 117, 10)),
    ({"shuffle": True, "shuffle_window": 2}, (0, 60, 7)),
    ({"shuffle": True}, (0, 20, 1)),
    ({"training": False, "split": "test"}, (0, 11, 4)),
]


def compare(world, shards):
    for settings, (start, stop, size) in CASES:
        for partners in (False, True):
            dataset = open_pictures(shards, **settings)
            share = rank_slice(len(dataset.entries), world.rank, world.size)
            loader = SharedLoader(decode(dataset, share), world)
            sampler = RankBatchSampler(start, stop, size, world.rank, world.size, partners)
            for found, expected in zip(loader.load(sampler), load_batches(dataset, sampler, 0, CPU), strict=True):
                assert_equal(found, expected)


if __name__ == "__main__":
    world = World.join()
    compare(world, sys.argv[1])
    world.shutdown()
