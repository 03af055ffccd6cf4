"""Draws random numbers that are a pure function of the seed and a picture's position in the run."""

import numpy as np
import numpy.typing as npt

_AUGMENTATION = 1  # the sampler draws crops and mirrors with the key (seed, 0)


def draw_values(seed: int, position: int) -> npt.NDArray[np.uint64]:
    """Return four independent uniform numbers for the picture at `position`."""
    return np.random.Philox(key=[seed, _AUGMENTATION], counter=[position, 0, 0, 0]).random_raw(4)
