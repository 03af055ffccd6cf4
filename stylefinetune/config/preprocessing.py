"""The settings that make the input of a network from a picture, as published weights prescribe them."""

import dataclasses
from collections.abc import Iterator
from typing import Literal, TypeAlias

Resize: TypeAlias = Literal["warp", "shorter_side"]
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Channels: TypeAlias = Literal["bgr", "rgb"]
Policy: TypeAlias = Literal["none", "randaugment", "trivialaugment", "augmix"]
_MAGNITUDES = 31  # levels of torchvision's RandAugment


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that a network expects; the fields are keys of the section `data`."""

    resize: Resize
    interpolation: Interpolation
    channels: Channels
    image_size: int
    crop_size: int
    mean_value: tuple[float, ...] = ()  # empty: the mean picture of the shards
    std_value: tuple[float, ...] = ()  # empty: no division


CAFFE = Preprocessing(resize="warp", interpolation="bilinear", channels="bgr", image_size=256, crop_size=227)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How training pictures are changed at random, with torchvision's transforms; data.mirror flips them besides.

    Attributes:
        random_resized_crop: cut a part of random size and shape out of each training picture, and resize it to
            data.crop_size. By default, a new run of a network other than CaffeNet does, with data.resize=shorter_side.
        scale: smallest and largest area of the cut part, as fractions of the picture's area.
        ratio: smallest and largest ratio of the width of the cut part to its height.
        policy: none, or torchvision's randaugment, trivialaugment (wide) or augmix.
        num_ops: number of operations that RandAugment applies to each picture.
        magnitude: strength of RandAugment's operations, from 0 to 30.
        color_jitter: largest change of brightness, contrast, saturation and hue; one value is for the first three.
        random_erasing: fraction of the pictures in which a rectangle gets the colour data.mean_value.
    """

    random_resized_crop: bool | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    policy: Policy = "none"
    num_ops: int = 2
    magnitude: int = 9
    color_jitter: tuple[float, ...] = ()
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        for line in self._mistakes():
            raise ValueError(f"data.augment.{line}")

    def _mistakes(self) -> Iterator[str]:
        smallest, largest = self.scale
        if not 0 < smallest <= largest <= 1:
            yield f"scale is {list(self.scale)}; it must be two ascending fractions of the area, for example 0.08,1"
        narrowest, widest = self.ratio
        if not 0 < narrowest <= widest:
            yield f"ratio is {list(self.ratio)}; it must be two ascending ratios of width to height, as 0.75,1.333"
        if self.num_ops < 1:
            yield f"num_ops is {self.num_ops}; it must be at least 1, or set data.augment.policy to none"
        if not 0 <= self.magnitude < _MAGNITUDES:
            yield f"magnitude is {self.magnitude}; it must be from 0 to {_MAGNITUDES - 1}"
        if len(self.color_jitter) not in (0, 1, 4) or min(self.color_jitter, default=0) < 0:
            yield (
                f"color_jitter is {list(self.color_jitter)}; give one value, or four for brightness, contrast, "
                "saturation and hue, none of them negative"
            )
        if max(self.color_jitter[3:], default=0) > 0.5:
            yield f"color_jitter changes the hue by {self.color_jitter[3]:g}; it must be at most 0.5"
        if not 0 <= self.random_erasing <= 1:
            yield f"random_erasing is {self.random_erasing:g}; it must be from 0 to 1"

    @property
    def is_used(self) -> bool:
        """Whether pictures are changed."""
        return bool(self.random_resized_crop or self.color_jitter or self.random_erasing or self.policy != "none")

    @property
    def needs_mean_value(self) -> bool:
        """Whether no mean picture can be subtracted."""
        return bool(self.random_resized_crop or self.random_erasing)
