"""Prepares gradients for an optimizer: clipping by their norm, and the memory layout of fused kernels."""

import torch

FUSED = ("cpu", "cuda")  # devices with a kernel that does a whole update in one pass


def strided_like(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient with the strides of its parameter, which the fused kernel requires and does not check."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def clip_gradients(optimizer: torch.optim.Optimizer, limit: float) -> None:
    """Scale all gradients so that their total L2 norm is at most `limit`; does not wait for the device."""
    parameters: list[torch.Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]  # None if it is frozen
    factor = (limit / torch.nn.utils.get_total_norm(gradients)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
