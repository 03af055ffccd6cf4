"""A program of one rank or several: writes a list of the pictures of its rank, then trains.

python any_world.py FOLDER SHARDS [FLAG of training ...]: FOLDER/rank_N.json gets, for 1 to 4 loader workers, a list for
each iteration of the rank's pictures: key, position of the crop, mirror, and a sum over the input that the order of its
pixels shows in.
"""

import json
import os
import sys
from pathlib import Path

import torch

from shards.format.order import RankBatchSampler
from stylefinetune.config.data import DataConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.transforms import Transform
from stylefinetune.errors import run_command
from stylefinetune.train import main

CPU = torch.device("cpu")
ITERATIONS, BATCH = 60, 10


def pictures_given(shards, rank, world_size, workers):
    config = DataConfig(shards=shards, image_size=80, crop_size=67, mirror=True, shuffle=True, mean_value=(0,))
    phase = config.phase(training=True)
    pictures = PictureDataset(open_split(open_index(config), phase.split), phase, seed=1701)
    transform = Transform(torch.zeros(1, 1, 3), 1.0, CPU)
    ramp = torch.arange(3 * 67 * 67).reshape(3, 67, 67)
    given = []
    for batch in load_batches(pictures, RankBatchSampler(0, ITERATIONS * BATCH, BATCH, rank, world_size), workers, CPU):
        sums = (transform(batch.pictures, batch.crops).long() * ramp).sum(dim=(1, 2, 3))
        keys = [pictures.entries.key[pictures.order.row(position)] for position in batch.positions.tolist()]
        columns = (keys, *(t.tolist() for t in (batch.crops.top, batch.crops.left, batch.crops.mirror, sums)))
        given.append(list(zip(*columns, strict=True)))
    return given


if __name__ == "__main__":
    folder, shards, *flags = sys.argv[1:]
    rank, world_size = (int(os.environ.get(name, fallback)) for name, fallback in (("RANK", 0), ("WORLD_SIZE", 1)))
    given = {workers: pictures_given(shards, rank, world_size, workers) for workers in (1, 2, 3, 4)}
    Path(folder, f"rank_{rank}.json").write_text(json.dumps(given))
    sys.exit(run_command(main, flags))
