"""Loads the mean picture or mean values that are subtracted from each input."""

from pathlib import Path

import numpy as np
import torch

from stylefinetune.caffe.files import read_mean
from stylefinetune.caffe.pretrained import locate_published
from stylefinetune.config.data import DataConfig, PhaseConfig
from stylefinetune.errors import UserError


def load_mean(config: DataConfig, phase: PhaseConfig, size: tuple[int, int]) -> torch.Tensor:
    """Return what is subtracted from every picture: float32 [H, W, 3], or [1, 1, 3] for data.mean_value; RGB.

    The default is the mean picture in the folder of the shards. `size` is the (height, width) of the pictures before
    cropping.

    Raises:
        UserError: the file is missing or unreadable, or differs from the pictures in size.
    """
    if phase.mean_value:
        levels = torch.tensor(phase.mean_value, dtype=torch.float32).expand(3)
        return levels.flip(0).reshape(1, 1, 3)
    path = locate_published(phase.mean_file) if phase.mean_file else Path(config.shards) / "mean.npy"
    if not path.is_file():
        remedy = "set data.mean_file" if phase.mean_file else f"make it with: python -m shards mean {config.shards}"
        raise UserError(f"{path}: no such mean picture; {remedy}, or set data.mean_value")
    if path.suffix == ".npy":
        try:
            mean = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        except (ValueError, EOFError, OSError, TypeError) as error:
            raise UserError(
                f"{path} can't be read as a mean picture; create it again with python -m shards mean"
            ) from error
    else:
        mean = torch.from_numpy(read_mean(path).copy()).permute(1, 2, 0).flip(-1)
    if tuple(mean.shape) != (*size, 3):
        found, wanted = ("x".join(map(str, sides)) for sides in (mean.shape, (*size, 3)))
        raise UserError(f"{path} is {found}; the pictures (data.image_size) are {wanted}")
    return mean.contiguous()
