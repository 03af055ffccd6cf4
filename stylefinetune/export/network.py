"""A trained network with all that a program needs to use it: preprocessing, class names and where it is from."""

import dataclasses
import functools
import json
import re
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.config.data import PhaseConfig
from stylefinetune.data.transforms import Transform

DESCRIPTION = "stylefinetune.json"  # name of the description in a file's metadata
MEAN_TENSOR = "preprocessing.mean"  # name of a mean picture among a file's tensors
_FORMAT = 1  # of the description


class Normalized(nn.Module):
    """A network whose input is pixels: float32 [B, 3, H, W], RGB, from 0 to 255.

    Args:
        net: the network.
        mean: what is subtracted, [3, H, W] or [3, 1, 1], in the order of `channels`.
        std: by what is divided then, [3], in the same order.
        channels: order of the channels of the network's input, bgr or rgb.
    """

    mean: torch.Tensor
    factor: torch.Tensor

    def __init__(self, net: nn.Module, mean: torch.Tensor, std: torch.Tensor, channels: str) -> None:
        super().__init__()
        self.net = net
        self._flips = channels == "bgr"
        self.register_buffer("mean", mean[None])
        self.register_buffer("factor", (1 / std.double()).float().reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits, [B, classes]."""
        values = pixels.flip(1) if self._flips else pixels
        return self.net((values - self.mean) * self.factor)


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """The network of a checkpoint."""

    saved: Checkpoint

    @functools.cached_property
    def _built(self) -> tuple[nn.Module, Transform]:
        return self.saved.build_network(torch.device("cpu"))

    @property
    def net(self) -> nn.Module:
        """The network, on the CPU and in evaluation mode; its input is normalized."""
        return self._built[0]

    @property
    def transform(self) -> Transform:
        """What makes this input from pictures, as in tests."""
        return self._built[1]

    @property
    def arch(self) -> str:
        """The name of the network in model.arch."""
        return self.saved.config.model.arch

    @property
    def stem(self) -> str:
        """The beginning of the names of its files."""
        title = re.sub(r"[^A-Za-z0-9_-]+", "_", self.saved.config.model.title)
        return f"{title}_iter_{self.saved.progress.iteration}"

    @property
    def mean(self) -> torch.Tensor:
        """What is subtracted from the cropped pixels: [3, H, W], or [3, 1, 1] if it is one value for each channel."""
        mean = self.saved.means[1]
        (height, width), (picture_height, picture_width) = self.input_size, self.saved.progress.picture_size
        if mean.shape[:2] != (1, 1):
            top, left = (picture_height - height) // 2, (picture_width - width) // 2
            mean = mean[top : top + height, left : left + width]
        mean = mean.flip(-1) if self._phase.channels == "bgr" else mean
        return mean.permute(2, 0, 1).float().contiguous()

    @property
    def std(self) -> torch.Tensor:
        """By what each channel is divided, [3]: the standard deviation and data.scale."""
        std = torch.tensor(self._phase.std_value or (1.0,), dtype=torch.float64)
        return (std / self._phase.scale).float().expand(3).contiguous()

    @property
    def input_size(self) -> tuple[int, int]:
        """The (height, width) of the input in pixels."""
        height, width = self.saved.progress.input_size
        return height, width

    @property
    def _phase(self) -> PhaseConfig:
        return self.saved.config.data.phase(training=False)

    def with_pixels_as_input(self) -> Normalized:
        """Return the network with the normalization inside."""
        return Normalized(self.net, self.mean, self.std, self._phase.channels).eval()

    def describe(self, *, normalizes: bool) -> dict[str, Any]:
        """Return the description for the file; docs/export.md documents it.

        `normalizes` says whether the normalization is inside the file.
        """
        phase, progress = self._phase, self.saved.progress
        mean = self.mean.flatten().tolist() if self.mean.shape[1:] == (1, 1) else None
        side = phase.image_size[0] if phase.image_size and phase.resize == "shorter_side" else None
        return {
            "format": _FORMAT,
            "network": self.arch,
            "classes": progress.classes,
            "input": {"shape": ["batch", 3, *self.input_size], "type": "float32"},
            "preprocessing": {
                "resize": phase.resize if phase.image_size else "none",
                "size": side or list(progress.picture_size),
                "interpolation": phase.interpolation,
                "antialias": side is not None,
                "crop": "center",
                "crop_size": list(self.input_size),
                "normalization": {
                    "in_file": normalizes,
                    "channels": phase.channels,
                    "mean": mean if mean is not None else f"the tensor {MEAN_TENSOR}",
                    "std": self.std.tolist(),
                },
            },
            "output": "sigmoid" if self.saved.config.train.loss == "bce" else "softmax",
            "iteration": progress.iteration,
            "written_by": f"stylefinetune {version('stylefinetune')}",
        }

    def description(self, *, normalizes: bool) -> str:
        """Return the description as JSON."""
        return json.dumps(self.describe(normalizes=normalizes), ensure_ascii=False)
