"""Converts a batch of uint8 pictures to the network's input, on the device."""

import dataclasses

import cv2
import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Crops:
    """The crop of each picture of a batch."""

    top: torch.Tensor  # int64[B], first row of the crop
    left: torch.Tensor  # int64[B], first column of the crop
    mirror: torch.Tensor  # bool[B], whether the crop is flipped left to right
    size: tuple[int, int]  # (height, width) of all crops

    def pin_memory(self) -> "Crops":
        """Return the crops in page-locked memory."""
        return Crops(self.top.pin_memory(), self.left.pin_memory(), self.mirror.pin_memory(), self.size)


class Transform:
    """Caffe's DataTransformer: crop, subtract the same crop of the mean, mirror, reverse the channels to BGR.

    Args:
        mean: float32 [H, W, 3] picture or [1, 1, 3] values, RGB.
        scale: factor applied after the mean is subtracted.
        device: device on which pictures are transformed.
    """

    def __init__(self, mean: torch.Tensor, scale: float, device: torch.device) -> None:
        assert mean.ndim == 3
        assert mean.shape[2] == 3
        self._mean = mean.to(device, torch.float32).flip(-1)  # BGR
        self._scale = scale
        self._device = device

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """Transform uint8 RGB [B, H, W, 3] to float32 BGR [B, 3, *crops.size]: (value - mean) * scale.

        The memory format is channels last.
        """
        transform = self._transform_each if self._device.type == "cpu" else self._transform_batch
        return transform(pictures, crops).permute(0, 3, 1, 2)

    def _transform_each(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """Return [B, *crops.size, 3], one picture after the other, since most operations then read caches."""
        count, height, width, _ = pictures.shape
        transformed = torch.empty(count, *crops.size, 3, dtype=torch.float32)
        mean = self._mean.expand(height, width, 3).contiguous().numpy()
        places = zip(crops.top.tolist(), crops.left.tolist(), crops.mirror.tolist(), strict=True)
        for picture, output, (top, left, mirror) in zip(pictures.numpy(), transformed.numpy(), places, strict=True):
            crop = slice(top, top + crops.size[0]), slice(left, left + crops.size[1])
            bgr = cv2.cvtColor(picture[crop], cv2.COLOR_RGB2BGR)
            cv2.subtract(bgr, mean[crop], dst=output, dtype=cv2.CV_32F)
            if self._scale != 1:
                np.multiply(output, np.float32(self._scale), out=output)
            if mirror:
                cv2.flip(output, 1, dst=output)
        return transformed

    def _transform_batch(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """Return [B, *crops.size, 3], computed with a few operations on the whole batch, as a GPU needs it."""
        pictures = pictures.to(self._device, non_blocking=True)
        count, height, width, _ = pictures.shape
        crop_height, crop_width = crops.size
        rows = crops.top.to(self._device, non_blocking=True)[:, None] + torch.arange(crop_height, device=self._device)
        step = torch.arange(crop_width, device=self._device)
        mirror = crops.mirror.to(self._device, non_blocking=True)[:, None]
        # A mirrored crop has the same columns in reverse order; the mean is mirrored too.
        columns = crops.left.to(self._device, non_blocking=True)[:, None] + torch.where(
            mirror, crop_width - 1 - step, step
        )
        pixel = rows[:, :, None] * width + columns[:, None, :]
        picture = torch.arange(count, device=self._device)[:, None, None]
        bgr = pictures.reshape(count, height * width, 3)[picture, pixel].flip(-1)
        mean = self._mean.expand(height, width, 3).reshape(-1, 3)[pixel]
        return torch.sub(bgr, mean, out=mean).mul_(self._scale)
