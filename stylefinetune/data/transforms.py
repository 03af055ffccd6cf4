"""Converts a batch of uint8 pictures to the network's input, on the device."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import torch

from stylefinetune.config.data import PhaseConfig
from stylefinetune.config.preprocessing import Channels


@dataclasses.dataclass(frozen=True)
class Crops:
    """The crop of each picture of a batch."""

    top: torch.Tensor  # int64[B], first row of the crop
    left: torch.Tensor  # int64[B], first column of the crop
    mirror: torch.Tensor  # bool[B], whether the crop is flipped left to right
    size: tuple[int, int]  # (height, width) of all crops
    rows: torch.Tensor | None = None  # int64[B], which of the pictures is cropped; by default the first, second, ...

    def to(self, device: torch.device) -> "Crops":
        """Return the crops on `device`; does not wait for it."""
        top, left, mirror = (each.to(device, non_blocking=True) for each in (self.top, self.left, self.mirror))
        rows = None if self.rows is None else self.rows.to(device, non_blocking=True)
        return Crops(top, left, mirror, self.size, rows)


Scale: TypeAlias = float | torch.Tensor  # one for all channels, or float32[3]
CropBatch: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Scale, Crops], torch.Tensor]


class Transform:
    """Caffe's DataTransformer: crop, subtract the same crop of the mean, mirror, reverse the channels to BGR.

    Networks other than Caffe's may need RGB, and divide by the standard deviation of each channel.

    Args:
        mean: float32 [H, W, 3] picture or [1, 1, 3] values, RGB.
        scale: factor applied after the mean is subtracted.
        device: device on which pictures are transformed.
        channels: order of the channels of the result.
        std: by what each channel of the result is divided; one value for all, or none.
    """

    def __init__(
        self,
        mean: torch.Tensor,
        scale: float,
        device: torch.device,
        *,
        channels: Channels = "bgr",
        std: tuple[float, ...] = (),
    ) -> None:
        assert mean.ndim == 3
        assert mean.shape[2] == 3
        mean = mean.to(device, torch.float32)
        self._mean = mean.flip(-1) if channels == "bgr" else mean
        self._scale: Scale = scale
        if std:
            factors = scale / torch.tensor(std, dtype=torch.float64)
            self._scale = factors.to(device, torch.float32).expand(3).contiguous()
        self._device = device
        if device.type != "cpu" and channels == "bgr" and not std:
            self._crop_batch: CropBatch = _load_kernel(device)
        else:
            crop = crop_each if device.type == "cpu" else crop_together
            self._crop_batch = functools.partial(crop, channels=channels)

    @classmethod
    def for_phase(cls, mean: torch.Tensor, phase: PhaseConfig, device: torch.device) -> "Transform":
        """Return the transform of training or of testing."""
        return cls(mean, phase.scale, device, channels=phase.channels, std=phase.std_value)

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """Transform uint8 RGB [N, H, W, 3] to float32 [B, 3, *crops.size]: (value - mean) * scale / std.

        The memory format is channels last.
        """
        pictures = pictures.to(self._device, non_blocking=True)
        mean = self._mean.expand(pictures.shape[1:]).contiguous()
        return self._crop_batch(pictures, mean, self._scale, crops.to(self._device)).permute(0, 3, 1, 2)


def crop_each(
    pictures: torch.Tensor, mean: torch.Tensor, scale: Scale, crops: Crops, *, channels: Channels = "bgr"
) -> torch.Tensor:
    """Return the crops, [B, *crops.size, 3], one after the other, since on a CPU most operations then read caches.

    `pictures` are uint8 [N, H, W, 3], RGB; `mean` is float32 [H, W, 3], with the channels in the order of the result.
    """
    count = len(crops.top)
    transformed = torch.empty(count, *crops.size, 3, dtype=torch.float32)
    rows = range(count) if crops.rows is None else crops.rows.tolist()
    places = zip(rows, crops.top.tolist(), crops.left.tolist(), crops.mirror.tolist(), strict=True)
    pixels, means = pictures.numpy(), mean.numpy()
    factor = scale.expand(*crops.size, 3).contiguous().numpy() if isinstance(scale, torch.Tensor) else np.float32(scale)
    for output, (row, top, left, mirror) in zip(transformed.numpy(), places, strict=True):
        crop = slice(top, top + crops.size[0]), slice(left, left + crops.size[1])
        values = cv2.cvtColor(pixels[row][crop], cv2.COLOR_RGB2BGR) if channels == "bgr" else pixels[row][crop]
        cv2.subtract(values, means[crop], dst=output, dtype=cv2.CV_32F)
        if isinstance(scale, torch.Tensor) or scale != 1:
            np.multiply(output, factor, out=output)
        if mirror:
            cv2.flip(output, 1, dst=output)
    return transformed


def crop_together(
    pictures: torch.Tensor, mean: torch.Tensor, scale: Scale, crops: Crops, *, channels: Channels = "bgr"
) -> torch.Tensor:
    """Return the same as `crop_each`, with a few operations on the whole batch, on any device."""
    _, height, width, _ = pictures.shape
    count, (crop_height, crop_width) = len(crops.top), crops.size
    rows = crops.top[:, None] + torch.arange(crop_height, device=pictures.device)
    step = torch.arange(crop_width, device=pictures.device)
    # A mirrored crop has the same columns in reverse order; the mean is mirrored too.
    columns = crops.left[:, None] + torch.where(crops.mirror[:, None], crop_width - 1 - step, step)
    pixel = rows[:, :, None] * width + columns[:, None, :]
    picture = torch.arange(count, device=pictures.device) if crops.rows is None else crops.rows
    values = pictures.reshape(-1, height * width, 3)[picture[:, None, None], pixel]
    cropped_mean = mean.reshape(-1, 3)[pixel]
    return torch.sub(values.flip(-1) if channels == "bgr" else values, cropped_mean, out=cropped_mean).mul_(scale)


def _load_kernel(device: torch.device) -> CropBatch:
    """Return `_crop_with_kernel`, or `crop_together` where the kernel can't be compiled."""
    place = torch.zeros(1, dtype=torch.int64, device=device)
    pictures, mean = torch.zeros(1, 2, 2, 3, dtype=torch.uint8, device=device), torch.zeros(2, 2, 3, device=device)
    try:
        _crop_with_kernel(pictures, mean, 1.0, Crops(place, place, place == 0, (1, 1)))
    except Exception:  # noqa: BLE001 -- without Triton, a C compiler or support for this GPU, errors of many kinds
        return crop_together
    return _crop_with_kernel


def _crop_with_kernel(pictures: torch.Tensor, mean: torch.Tensor, scale: Scale, crops: Crops) -> torch.Tensor:
    """Return the same as `crop_together` with one scale and BGR, in one pass."""
    from stylefinetune.data.kernels.crop_kernel import crop_batch  # noqa: PLC0415 -- Triton is not installed everywhere

    assert not isinstance(scale, torch.Tensor)
    rows = torch.arange(len(crops.top), device=pictures.device) if crops.rows is None else crops.rows
    return crop_batch(pictures, mean, scale, (rows, crops.top, crops.left, crops.mirror), crops.size)
