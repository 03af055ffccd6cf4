"""Opens the pictures of a split and reads batches, for the tests of this folder."""

import dataclasses

import torch

from shards.format.order import RankBatchSampler
from stylefinetune.config.data import DataConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches

CPU = torch.device("cpu")


def data_config(shards, **changes):
    return DataConfig(**{"shards": str(shards), "image_size": 48, "crop_size": 43, "shuffle": False, **changes})


def open_pictures(shards, *, training=True, split="train", **changes):
    data = data_config(shards, **changes)
    phase = dataclasses.replace(data.phase(training=training), split=split)
    return PictureDataset(open_split(open_index(data), split), phase, seed=7)


def read_batches(pictures, start=0, stop=60, rank=0, world_size=1, workers=0):
    return list(load_batches(pictures, RankBatchSampler(start, stop, 10, rank, world_size), workers, CPU))
