"""Loads the mean picture or mean values that are subtracted from each input."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stylefinetune.caffe.files import read_mean
from stylefinetune.caffe.pretrained import locate_published
from stylefinetune.config.data import DataConfig, PhaseConfig
from stylefinetune.data.staging.index_copy import MEAN_FILE, is_in_store, shards_folder
from stylefinetune.errors import UserError, joined_sizes

_AGAIN = "create it again with: shards mean DIR"


def load_mean(config: DataConfig, phase: PhaseConfig, size: tuple[int, int]) -> torch.Tensor:
    """Return what is subtracted from every picture: float32 [H, W, 3], or [1, 1, 3] for data.mean_value; RGB.

    The default is the mean picture in the folder of the shards. `size` is the (height, width) of the pictures before
    cropping.

    Raises:
        UserError: the file is missing, unreadable or not finite, or differs from the pictures in size.
    """
    if phase.mean_value:
        levels = torch.tensor(phase.mean_value, dtype=torch.float32).expand(3)
        return (levels.flip(0) if phase.channels == "bgr" else levels).reshape(1, 1, 3)
    if reason := why_no_mean_picture(phase):
        raise UserError(f"{reason}; set data.mean_value, one value for each channel ({phase.order})")
    path = locate_published(phase.mean_file) if phase.mean_file else shards_folder(config) / MEAN_FILE
    if not path.is_file():
        remedy = "set data.mean_file" if phase.mean_file else f"make it with: {_mean_command(config)}"
        place = f"{config.shards}/{MEAN_FILE}" if is_in_store(config) and not phase.mean_file else path
        raise UserError(f"{place}: no such mean picture; {remedy}, or set data.mean_value")
    mean = read_mean_picture(path)
    if mean.shape != (*size, 3):
        found, wanted = (joined_sizes(sides) for sides in (mean.shape, (*size, 3)))
        raise UserError(
            f"{path} is {found}; the pictures (data.image_size) are {wanted}; {_resize_remedy(config, phase, size)}"
        )
    return torch.from_numpy(mean)


def why_no_mean_picture(phase: PhaseConfig) -> str | None:
    """Return why a mean picture can't be subtracted from the pictures of a phase; None if it can."""
    if phase.resize != "warp":
        found = f"data.resize is {phase.resize}"
    elif phase.training and phase.augment.needs_mean_value:
        found = "data.augment cuts or erases pictures"
    else:
        return None
    return f"{found}, but a mean picture fits warped pictures only"


def describe_other_size(mean: torch.Tensor, size: tuple[int, int]) -> str | None:
    """Return how pictures of this (height, width) differ from a mean picture; None if the mean fits them."""
    if mean.shape[:2] in {(1, 1), size}:
        return None
    pictures, found = (joined_sizes(sides) for sides in (size, mean.shape[:2]))
    return f"the pictures are {pictures}, and the mean picture is {found}"


def read_mean_picture(path: Path) -> npt.NDArray[np.float32]:
    """Return the mean picture in a .npy or .binaryproto file: float32 [H, W, 3], RGB.

    Raises:
        UserError: the file is unreadable or not finite, or has one value per channel instead of a picture.
    """
    if path.suffix == ".npy":
        mean = _read_npy(path)
    else:
        mean = np.ascontiguousarray(read_mean(path).transpose(1, 2, 0)[..., ::-1])
    if not np.isfinite(mean).all():
        raise UserError(f"{path} has values that aren't finite (NaN or infinity); {_AGAIN}")
    if mean.size == 3:
        raise UserError(f"{path} has one value per channel; give the values as --data.mean_value B,G,R")
    return mean


def _read_npy(path: Path) -> npt.NDArray[np.float32]:
    """Read float32[H, W, 3], RGB, or Caffe's [3, H, W], BGR, as in its ilsvrc_2012_mean.npy."""
    try:
        with np.errstate(over="ignore"):  # infinity is refused later
            mean = np.asarray(np.load(path, allow_pickle=False).astype(np.float32))
    except (ValueError, EOFError, OSError, TypeError, AttributeError) as error:
        raise UserError(f"{path} can't be read as a mean picture; {_AGAIN}") from error
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim == 3 and mean.shape[0] == 3 and mean.shape[2] != 3:
        mean = mean.transpose(1, 2, 0)[..., ::-1]
    return np.ascontiguousarray(mean)


def _resize_remedy(config: DataConfig, phase: PhaseConfig, size: tuple[int, int]) -> str:
    height, width = size
    if height != width:
        return "set data.image_size to the size of the mean, or data.mean_value instead of a mean picture"
    keep = ", without data.mean_file" if phase.mean_file else ""
    return f"make one of that size with: {_mean_command(config, f' --image_size {height}')}{keep}"


def _mean_command(config: DataConfig, flags: str = "") -> str:
    if is_in_store(config):
        return f"shards mean COPY{flags}, where COPY is a copy of {config.shards} on a disk; upload COPY/{MEAN_FILE}"
    return f"shards mean {config.shards or 'DIR'}{flags}"
