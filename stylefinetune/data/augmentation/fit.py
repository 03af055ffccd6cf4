"""Chooses how the pictures of a phase are made to fit into the slots of the loader."""

from stylefinetune.config.data import PhaseConfig
from stylefinetune.data.augmentation.shorter_side import ShorterSide


def build_fit(phase: PhaseConfig, seed: int) -> ShorterSide | None:
    """Return how pictures are resized and cropped when they are read.

    None if they are only resized as in Caffe, and cropped on the device.
    """
    if phase.resize == "warp":
        return None
    assert phase.image_size is not None
    return ShorterSide(phase.image_size[0], phase.crop_size, phase.interpolation, seed if phase.training else None)
