"""Local response normalization across channels, faster than PyTorch's and with the same bits.

nn.LocalResponseNorm sums the squares with avg_pool3d. On CPUs that is several times slower than the additions here, and
on GPUs its backward pass has no deterministic implementation.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class LocalResponseNorm(nn.LocalResponseNorm):
    """Local response normalization in fp32 or higher precision, also under autocast.

    It squares its input. The outputs of conv1 are in the hundreds, so their squares exceed the range of float16: they
    would become infinite, and the outputs 0.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- the name in the base class
        """See nn.LocalResponseNorm; the output is float32, or float64 for a float64 input."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        return _Normalize.apply(x, self.size, self.alpha, self.beta, self.k)


class _Normalize(torch.autograd.Function):
    """y = x / s^beta, where s = (sum of x^2 over the window / size) * alpha + k.

    The forward pass repeats the operations of nn.LocalResponseNorm in their order. Other ways to round, such as
    x * s^-beta, decide close calls of the next max pooling otherwise, and the network's gradients then differ from
    Caffe's by 1e-4.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:  # noqa: ANN401 -- untyped in PyTorch
        scale = _sum_window(x * x, size).div_(size).mul_(alpha).add_(k)
        ctx.save_for_backward(x, scale)
        ctx.size, ctx.alpha, ctx.beta = size, alpha, beta
        return x / scale.pow(beta)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] -- the decorator hides the names of the parameters
        ctx: Any,  # noqa: ANN401
        *grad_outputs: torch.Tensor,
    ) -> tuple[torch.Tensor, None, None, None, None]:
        """Return dy * s^-beta - 2 * alpha * beta / size * x * (sum of dy * x * s^-(beta + 1) over the window)."""
        x, scale = ctx.saved_tensors
        direct = scale.pow(-ctx.beta).mul_(grad_outputs[0])
        # The windows that contain a channel: the same offsets reversed.
        shared = _sum_window((direct * x).div_(scale), ctx.size, reverse=True)
        return direct.addcmul_(x, shared, value=-2 * ctx.alpha * ctx.beta / ctx.size), None, None, None, None


def _sum_window(x: torch.Tensor, size: int, *, reverse: bool = False) -> torch.Tensor:
    """Return the sum over a window of `size` channels around each channel of x [B, C, ...], in ascending order."""
    before, after = size // 2, (size - 1) // 2
    if reverse:
        before, after = after, before
    channels = x.shape[1]
    total = torch.zeros_like(x)
    for offset in range(-min(before, channels - 1), min(after, channels - 1) + 1):
        start, stop = max(0, -offset), min(channels, channels - offset)
        total[:, start:stop] += x[:, start + offset : stop + offset]
    return total
