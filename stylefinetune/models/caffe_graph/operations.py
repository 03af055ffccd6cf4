"""Layers of Caffe that PyTorch lacks, or computes by other formulas.

All take and return blobs, float [B, ...]; of pictures, [B, C, H, W].
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class CaffeBatchNorm(nn.BatchNorm2d):
    """Batch normalization without learned blobs, whose running statistics are Caffe's.

    Caffe sums statistics, each sum multiplied by `fraction` before the next addition, and divides by the sum of the
    weights, `scale_factor`. So the first batches have a larger weight than with PyTorch's constant momentum. The
    variance is the unbiased one in the running statistics, and the biased one where a batch is normalized.
    Source: batch_norm_layer.cpp.
    """

    scale_factor: torch.Tensor

    def __init__(self, channels: int, eps: float, fraction: float) -> None:
        super().__init__(channels, eps=eps, affine=False)
        self._fraction = fraction
        self.num_batches_tracked = None  # Caffe's files lack it
        self.register_buffer("scale_factor", torch.zeros(()))
        assert self.running_var is not None
        self.running_var.zero_()  # as in Caffe before the first batch

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name in the base class
        """Normalize each channel of [B, C, ...]."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None
        assert variance is not None
        if not self.training:
            return functional.batch_norm(input, mean, variance, eps=self.eps)
        # With a momentum of 1, the buffers become the batch's statistics.
        own_mean, own_variance = torch.zeros_like(mean), torch.zeros_like(variance)
        output = functional.batch_norm(input, own_mean, own_variance, training=True, momentum=1.0, eps=self.eps)
        with torch.no_grad():
            self.scale_factor.mul_(self._fraction).add_(1)
            mean.lerp_(own_mean, 1 / self.scale_factor)
            variance.lerp_(own_variance, 1 / self.scale_factor)
        return output


class Scale(nn.Module):
    """Multiplies each channel by a learned weight, and adds a learned bias."""

    def __init__(self, channels: int, *, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if has_bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x * weight + bias, for [B, C, ...]."""
        shape = (-1, *(1,) * (x.ndim - 2))
        scaled = x * self.weight.view(shape)
        return scaled if self.bias is None else scaled + self.bias.view(shape)


class WithinChannelNorm(nn.Module):
    """Local response normalization over a square of pixels: y = x / (1 + alpha * mean of x^2 in the square)^beta.

    The mean counts the zeros beyond the border. Source: lrn_layer.cpp, WithinChannelForward.
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self._size, self._alpha, self._beta = size, alpha, beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize [B, C, H, W]."""
        squares = functional.avg_pool2d(x * x, self._size, stride=1, padding=(self._size - 1) // 2)
        return x * (1 + self._alpha * squares).pow(-self._beta)


class GlobalPool(nn.Module):
    """The maximum or the mean of all pixels, [B, C, 1, 1]."""

    def __init__(self, *, is_max: bool) -> None:
        super().__init__()
        self._is_max = is_max

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool [B, C, H, W]."""
        return functional.max_pool2d(x, x.shape[2:]) if self._is_max else x.mean((2, 3), keepdim=True)


class Eltwise(nn.Module):
    """Combines blobs of equal shape: PROD, SUM with a coefficient for each, or MAX."""

    def __init__(self, operation: str, coefficients: Sequence[float]) -> None:
        super().__init__()
        self._operation, self._coefficients = operation, coefficients

    def forward(self, *blobs: torch.Tensor) -> torch.Tensor:
        """Combine two or more blobs."""
        if self._operation == "PROD":
            return functools.reduce(torch.mul, blobs)
        if self._operation == "MAX":
            return functools.reduce(torch.maximum, blobs)
        if all(coefficient == 1 for coefficient in self._coefficients):
            return functools.reduce(torch.add, blobs)
        return functools.reduce(torch.add, (c * blob for c, blob in zip(self._coefficients, blobs, strict=True)))


class Concat(nn.Module):
    """Joins blobs along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self._axis = axis

    def forward(self, *blobs: torch.Tensor) -> torch.Tensor:
        """Join one or more blobs."""
        return torch.cat(blobs, self._axis)


class Reshape(nn.Module):
    """Replaces `num_axes` axes from `axis` on by `sizes`, where 0 keeps the size at its place and -1 is what remains.

    Source: reshape_layer.cpp.
    """

    def __init__(self, sizes: Sequence[int], axis: int, num_axes: int) -> None:
        super().__init__()
        self._sizes, self._axis, self._num_axes = sizes, axis, num_axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reshape a blob."""
        start = self._axis if self._axis >= 0 else x.ndim + self._axis + 1
        stop = x.ndim if self._num_axes == -1 else start + self._num_axes
        sizes = [x.shape[start + place] if size == 0 else size for place, size in enumerate(self._sizes)]
        return x.reshape(*x.shape[:start], *sizes, *x.shape[stop:])


class InnerProduct(nn.Linear):
    """A fully connected layer, which flattens its input as Caffe's does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name in the base class
        """Return [B, outputs] for [B, ...]."""
        return super().forward(input.flatten(1))


def pooled_size(size: int, kernel: int, stride: int, pad: int, *, ceil: bool) -> int:
    """Return the side of a pooling layer's output as Caffe computes it."""
    steps = (size + 2 * pad - kernel) / stride
    pooled = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    # The last window must start inside the picture or its first border; Caffe checks it only if there is a border.
    return pooled - 1 if pad and (pooled - 1) * stride >= size + pad else pooled
