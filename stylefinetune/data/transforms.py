"""Converts a batch of uint8 pictures to the network's input, on the device."""

import dataclasses

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
        self.mean = mean.to(device)
        self.scale = scale
        self.device = device

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """Transform uint8 RGB [B, H, W, 3] to float32 BGR [B, 3, *crops.size]: (value - mean) * scale."""
        pictures = pictures.to(self.device, non_blocking=True)
        count, height, width, _ = pictures.shape
        mean = self.mean.expand(height, width, 3)
        crop_height, crop_width = crops.size
        rows = crops.top.to(self.device, non_blocking=True)[:, None] + torch.arange(crop_height, device=self.device)
        step = torch.arange(crop_width, device=self.device)
        mirror = crops.mirror.to(self.device, non_blocking=True)[:, None]
        # A mirrored crop has the same columns in reverse order; the mean is mirrored too.
        columns = crops.left.to(self.device, non_blocking=True)[:, None] + torch.where(
            mirror, crop_width - 1 - step, step
        )
        pixel = rows[:, :, None] * width + columns[:, None, :]
        picture = torch.arange(count, device=self.device)[:, None, None]
        crop = pictures.reshape(count, height * width, 3)[picture, pixel].float() - mean.reshape(-1, 3)[pixel]
        return (crop * self.scale).flip(-1).permute(0, 3, 1, 2).contiguous()
