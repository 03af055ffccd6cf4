"""Cuts training pictures and changes them at random, with torchvision's transforms."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from shards.format.images import Pixels, resize_picture
from stylefinetune.config.data import PhaseConfig
from stylefinetune.config.preprocessing import AugmentConfig, Interpolation
from stylefinetune.data.augmentation.draws import seed_generator
from stylefinetune.data.augmentation.shorter_side import ShorterSide

Cut: TypeAlias = Callable[[Pixels, int], Image.Image]
Change: TypeAlias = Callable[[Any], Any]  # of a PIL picture or of a tensor, a transform of torchvision


class Augmentation:
    """A Fit, see `stylefinetune.data.picture_reader`.

    Every draw is a function of the seed and the picture's position, so a picture is the same in any process, on any
    number of ranks, and after a resume. Mirroring is not done here: the loader draws it, and the device does it last.

    Args:
        size: (height, width) of the result.
        cut: makes a picture of this size from the one at a position.
        changes: what else is done with it, in order.
        seed: seed of all draws.
    """

    is_fixed = False

    def __init__(self, size: tuple[int, int], cut: Cut, changes: list[Change], seed: int) -> None:
        self.size = size
        self._cut = cut
        self._changes = changes
        self._seed = seed

    def __call__(self, pixels: Pixels, position: int, out: Pixels) -> None:
        """See Fit."""
        with seed_generator(self._seed, position):
            picture: Any = self._cut(pixels, position)
            for change in self._changes:
                picture = change(picture)
        out[:] = np.asarray(picture)


def build_augmentation(phase: PhaseConfig, seed: int) -> Augmentation:
    """Return the augmentation of training pictures that `phase` asks for."""
    sides = phase.image_size
    assert sides is not None
    augment, size = phase.augment, (phase.crop_size, phase.crop_size)
    if augment.random_resized_crop:
        cut: Cut = _RandomResizedCrop(size, augment, phase.interpolation)
    elif phase.resize == "shorter_side":
        cut = ShorterSide(sides[0], phase.crop_size, phase.interpolation, seed).cut
    else:
        size, cut = sides, functools.partial(_warp, sides)  # the device crops it
    return Augmentation(size, cut, [*_changes(augment, phase.interpolation), *_erase(phase)], seed)


class _RandomResizedCrop:
    def __init__(self, size: tuple[int, int], augment: AugmentConfig, interpolation: Interpolation) -> None:
        from torchvision.transforms import InterpolationMode, v2  # noqa: PLC0415 -- takes seconds

        mode = InterpolationMode(interpolation)
        self._transform = v2.RandomResizedCrop(size, augment.scale, augment.ratio, interpolation=mode)

    def __call__(self, pixels: Pixels, _position: int) -> Image.Image:
        return self._transform(Image.fromarray(pixels))


def _warp(size: tuple[int, int], pixels: Pixels, _position: int) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[:2] == size else resize_picture(pixels, *size))


def _changes(augment: AugmentConfig, interpolation: Interpolation) -> list[Change]:
    """Return the policy and the change of colours."""
    if augment.policy == "none" and not augment.color_jitter:
        return []
    from torchvision.transforms import InterpolationMode, v2  # noqa: PLC0415 -- takes seconds

    mode = InterpolationMode(interpolation)
    changes: list[Change] = []
    if augment.policy == "randaugment":
        changes.append(v2.RandAugment(augment.num_ops, augment.magnitude, interpolation=mode))
    elif augment.policy == "trivialaugment":
        changes.append(v2.TrivialAugmentWide(interpolation=mode))
    elif augment.policy == "augmix":
        changes.append(v2.AugMix(interpolation=mode))
    if augment.color_jitter:
        values = augment.color_jitter
        changes.append(v2.ColorJitter(*(values if len(values) == 4 else values * 3)))
    return changes


def _erase(phase: PhaseConfig) -> list[Change]:
    """Return what replaces a random rectangle by the mean, rounded to a level: about 0 in the network's input."""
    if phase.augment.random_erasing == 0:
        return []
    from torchvision.transforms import v2  # noqa: PLC0415 -- takes seconds

    mean = np.broadcast_to(np.round(phase.mean_value or (0,)), 3)  # without values, load_mean reports it
    rgb = (mean[::-1] if phase.channels == "bgr" else mean).tolist()
    return [v2.PILToTensor(), v2.RandomErasing(phase.augment.random_erasing, value=rgb), _rows_first]


def _rows_first(picture: Any) -> Any:  # noqa: ANN401 -- a tensor of torchvision
    return picture.permute(1, 2, 0)
