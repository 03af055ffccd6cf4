"""Draws random numbers that are a pure function of the seed and a picture's position in the run."""

import contextlib
from collections.abc import Generator

import numpy as np
import numpy.typing as npt
import torch

_AUGMENTATION = 1  # the sampler draws crops and mirrors with the key (seed, 0)


def draw_values(seed: int, position: int) -> npt.NDArray[np.uint64]:
    """Return four independent uniform numbers for the picture at `position`."""
    return np.random.Philox(key=[seed, _AUGMENTATION], counter=[position, 0, 0, 0]).random_raw(4)


@contextlib.contextmanager
def seed_generator(seed: int, position: int) -> Generator[None]:
    """Seed PyTorch's generator, from which torchvision draws, for the picture at `position`, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(draw_values(seed, position)[0] >> np.uint64(1)))
        yield
