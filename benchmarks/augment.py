"""Measures what cutting and changing pictures takes: `python -m benchmarks.augment`.

JPEGs of 500x333 pixels become inputs of 224x224 for a network with torchvision's weights: RGB, minus the mean, divided
by the standard deviations. Two programs take turns in one process, with one thread:

- stylefinetune: a dataset of shards and the transform of a CPU, as in a run with data.workers=0
- torchvision: ImageFolder with `torchvision.transforms.v2` on PIL pictures, as in its training recipe

Prints medians over the rounds of the processor time for a picture, in milliseconds, and the median ratio in a round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.feed import prepare
from shards.format.order import RankBatchSampler
from stylefinetune.config.data import DataConfig
from stylefinetune.config.preprocessing import AugmentConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.transforms import Transform

BATCH, RESIZED, SIDE = 50, 232, 224
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CPU = torch.device("cpu")
RECIPES = ("shorter side, centre", "RandomResizedCrop, flip", "the same and RandAugment")


def read_shards(shards: Path, recipe: str) -> Iterator[torch.Tensor]:
    """Yield inputs of a network, made by this project."""
    augment = AugmentConfig(
        random_resized_crop=recipe != RECIPES[0], policy="randaugment" if recipe == RECIPES[2] else "none"
    )
    data = DataConfig(
        shards=str(shards),
        resize="shorter_side",
        image_size=RESIZED,
        crop_size=SIDE,
        channels="rgb",
        mean_value=MEAN,
        std_value=STD,
        augment=augment,
    )
    phase = data.phase(training=recipe != RECIPES[0])
    pictures = PictureDataset(open_split(open_index(data), "train"), phase, seed=1)
    transform = Transform.for_phase(torch.tensor(MEAN).reshape(1, 1, 3), phase, CPU)
    for batch in load_batches(pictures, RankBatchSampler(0, 10**9, BATCH, 0, 1), 0, CPU):
        yield transform(batch.pictures, batch.crops)


def read_folder(folder: Path, recipe: str) -> Iterator[torch.Tensor]:
    """Yield inputs of a network, made by torchvision."""
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[Any] = (
        [v2.Resize(RESIZED), v2.CenterCrop(SIDE)]
        if recipe == RECIPES[0]
        else [v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip()]
    )
    steps += [v2.RandAugment(interpolation=bilinear)] if recipe == RECIPES[2] else []
    mean, std = ([value / 255 for value in values] for values in (MEAN, STD))
    last = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    pictures = ImageFolder(str(folder), v2.Compose([*steps, *last]))
    order = np.random.default_rng(1)
    while True:
        yield torch.stack([pictures[row][0] for row in order.integers(0, len(pictures), BATCH).tolist()])


def milliseconds(batches: Iterator[torch.Tensor], count: int) -> float:
    """Return the processor time for a picture."""
    began = time.process_time()
    for _ in range(count):
        assert next(batches).shape == (BATCH, 3, SIDE, SIDE)
    return 1000 * (time.process_time() - began) / (count * BATCH)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augment", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=4, help="of 50 pictures, in each turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options.images, None, None)
        print("| pictures | stylefinetune, ms | torchvision, ms | ratio |\n|---|---|---|---|")
        for recipe in RECIPES:
            programs = read_shards(folder / "jpg", recipe), read_folder(folder / "pictures", recipe)
            for program in programs:
                next(program)
            turns = [[milliseconds(program, options.batches) for program in programs] for _ in range(options.rounds)]
            ours, theirs = (statistics.median(turn[which] for turn in turns) for which in (0, 1))
            ratio = statistics.median(turn[1] / turn[0] for turn in turns)
            print(f"| {recipe} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
