"""Resizes a picture by the length of its shorter side and cuts a square out of it, as torchvision and timm do."""

import numpy as np
from PIL import Image

from shards.format.images import Pixels
from stylefinetune.config.preprocessing import Interpolation
from stylefinetune.data.augmentation.draws import draw_values

_LONGEST = 16  # times the shorter side; the ends of longer pictures are cut off, which would take too much memory
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ShorterSide:
    """A Fit, see `stylefinetune.data.picture_reader`.

    At the centre, the pixels are bit for bit those of `weights.transforms()` of torchvision before it normalizes them,
    for a picture that is decoded to the same pixels: both call Pillow, which antialiases.

    Args:
        side: length of the shorter side after resizing.
        crop: side of the square.
        interpolation: filter of the resizing.
        seed: seed of the place of the square; None cuts at the centre.
    """

    def __init__(self, side: int, crop: int, interpolation: Interpolation, seed: int | None) -> None:
        assert side >= crop
        self.size = (crop, crop)
        self.is_fixed = seed is None
        self._side = side
        self._filter = _FILTERS[interpolation]
        self._seed = seed

    def __call__(self, pixels: Pixels, position: int, out: Pixels) -> None:
        """See Fit."""
        out[:] = np.asarray(self.cut(pixels, position))

    def cut(self, pixels: Pixels, position: int) -> Image.Image:
        """Return the square of the picture at `position`."""
        picture = Image.fromarray(_without_ends(pixels))
        resized = picture.resize(_resized_size(picture.size, self._side), self._filter)
        margins = [length - crop for length, crop in zip(resized.size, self.size, strict=True)]
        left, top = self._place(margins, position)
        height, width = self.size
        return resized.crop((left, top, left + width, top + height))

    def _place(self, margins: list[int], position: int) -> list[int]:
        """Return the first column and row of the square."""
        if self._seed is None:
            return [round(margin / 2) for margin in margins]  # rounded like torchvision's center_crop
        drawn = draw_values(self._seed, position).tolist()
        return [value % (margin + 1) for value, margin in zip(drawn, margins, strict=False)]


def _resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the (width, height) after resizing; the longer side is rounded down like torchvision's."""
    width, height = size
    longer = int(side * max(size) / min(size))
    return (side, longer) if width <= height else (longer, side)


def _without_ends(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    longest = min(height, width) * _LONGEST
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]
