"""From a batch of uint8 pictures to the network's input, on the device, all pictures at once."""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Crops:
    """Where each picture of a batch is cut.

    Attributes:
        top: int64[B], first row of the cut.
        left: int64[B], first column.
        mirror: bool[B], whether the cut is flipped left to right.
    """

    top: torch.Tensor
    left: torch.Tensor
    mirror: torch.Tensor


class Transform:
    """Caffe's DataTransformer: cut, subtract the mean at the cut's own place, mirror, flip the channels to BGR.

    Args:
        mean: float32 [H, W, 3] picture or [1, 1, 3] levels, RGB.
        device: where pictures are transformed.
    """

    def __init__(self, mean: torch.Tensor, device: torch.device) -> None:
        assert mean.ndim == 3
        assert mean.shape[2] == 3
        self.mean = mean.to(device)
        self.device = device

    def __call__(self, pictures: torch.Tensor, crops: Crops, size: int) -> torch.Tensor:
        """Transforms uint8 RGB [B, H, W, 3] to float32 BGR [B, 3, size, size], levels 0..255 less the mean."""
        pictures = pictures.to(self.device, non_blocking=True)
        count, height, width, _ = pictures.shape
        mean = self.mean.expand(height, width, 3)
        step = torch.arange(size, device=self.device)
        rows = crops.top.to(self.device, non_blocking=True)[:, None] + step
        mirror = crops.mirror.to(self.device, non_blocking=True)[:, None]
        # A mirrored cut is the same columns read backwards; the mean is mirrored with it.
        columns = crops.left.to(self.device, non_blocking=True)[:, None] + torch.where(mirror, size - 1 - step, step)
        place = rows[:, :, None] * width + columns[:, None, :]
        picture = torch.arange(count, device=self.device)[:, None, None]
        cut = pictures.reshape(count, height * width, 3)[picture, place].float() - mean.reshape(-1, 3)[place]
        return cut.flip(-1).permute(0, 3, 1, 2).contiguous()
