"""The settings that make the input of a network from a picture, as published weights prescribe them."""

import dataclasses
from typing import Literal, TypeAlias

Resize: TypeAlias = Literal["warp", "shorter_side"]
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Channels: TypeAlias = Literal["bgr", "rgb"]


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
