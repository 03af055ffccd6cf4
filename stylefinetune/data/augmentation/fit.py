"""Chooses how the pictures of a phase are made to fit into the slots of the loader."""

from stylefinetune.config.data import PhaseConfig
from stylefinetune.data.augmentation.augment import build_augmentation
from stylefinetune.data.augmentation.shorter_side import ShorterSide
from stylefinetune.data.picture_reader import Fit


def build_fit(phase: PhaseConfig, seed: int) -> Fit | None:
    """Return how pictures are resized, cropped and changed when they are read.

    None if they are only resized as in Caffe, and cropped on the device.
    """
    if phase.training and phase.augment.is_used:
        return build_augmentation(phase, seed)
    if phase.resize == "warp":
        return None
    assert phase.image_size is not None
    return ShorterSide(phase.image_size[0], phase.crop_size, phase.interpolation, seed if phase.training else None)
