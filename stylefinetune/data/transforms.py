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
        size: (height, width) of every cut.
    """

    top: torch.Tensor
    left: torch.Tensor
    mirror: torch.Tensor
    size: tuple[int, int]

    def pin_memory(self) -> "Crops":
        """Returns the crops in page-locked memory."""
        return Crops(self.top.pin_memory(), self.left.pin_memory(), self.mirror.pin_memory(), self.size)


class Transform:
    """Caffe's DataTransformer: cut, subtract the mean at the cut's own place, mirror, flip the channels to BGR.

    Args:
        mean: float32 [H, W, 3] picture or [1, 1, 3] levels, RGB.
        scale: factor of what is left after the mean.
        device: where pictures are transformed.
    """

    def __init__(self, mean: torch.Tensor, scale: float, device: torch.device) -> None:
        assert mean.ndim == 3
        assert mean.shape[2] == 3
        self.mean = mean.to(device)
        self.scale = scale
        self.device = device

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """Transforms uint8 RGB [B, H, W, 3] to float32 BGR [B, 3, *crops.size], levels 0..255 less the mean, scaled."""
        pictures = pictures.to(self.device, non_blocking=True)
        count, height, width, _ = pictures.shape
        mean = self.mean.expand(height, width, 3)
        cut_height, cut_width = crops.size
        rows = crops.top.to(self.device, non_blocking=True)[:, None] + torch.arange(cut_height, device=self.device)
        step = torch.arange(cut_width, device=self.device)
        mirror = crops.mirror.to(self.device, non_blocking=True)[:, None]
        # A mirrored cut is the same columns read backwards; the mean is mirrored with it.
        columns = crops.left.to(self.device, non_blocking=True)[:, None] + torch.where(
            mirror, cut_width - 1 - step, step
        )
        place = rows[:, :, None] * width + columns[:, None, :]
        picture = torch.arange(count, device=self.device)[:, None, None]
        cut = pictures.reshape(count, height * width, 3)[picture, place].float() - mean.reshape(-1, 3)[place]
        return (cut * self.scale).flip(-1).permute(0, 3, 1, 2).contiguous()
