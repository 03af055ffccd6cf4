"""Counts the floating-point operations of training, and knows the peak rates of GPUs."""

import copy
from typing import Any, cast

import torch
from torch import nn

# Dense peak rates in TFLOP/s by a part of the device's name: fp32, TF32, and bf16 or fp16. From NVIDIA's data sheets;
# where one gives the rate with sparsity, it is halved. The first part that matches a name applies.
_PEAKS = {
    "B200": (75, 1125, 2250),
    "H200": (66.9, 494.7, 989.4),
    "H100 PCIe": (51.2, 378, 756),
    "H100 NVL": (60, 418, 835),
    "H100": (66.9, 494.7, 989.4),
    "A100": (19.5, 156, 312),
    "A10": (31.2, 62.5, 125),
    "L40S": (91.6, 183, 362),
    "L40": (90.5, 90.5, 181),
    "NVIDIA L4": (30.3, 60, 121),
    "V100": (15.7, 15.7, 125),
    "Tesla T4": (8.1, 8.1, 65),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71),
}
_PRECISIONS = {"fp32": 0, "tf32": 1, "bf16": 2, "fp16": 2}


def training_flops(net: nn.Module, input_size: tuple[int, int]) -> int | None:
    """Return the operations of a forward and a backward pass of one picture, with its layers frozen as they are.

    A multiplication and an addition are two operations. Convolutions, matrix products and attention are counted, as in
    all published figures; the rest takes time, but few operations. Nothing is computed: the copy has no storage.

    Returns:
        The count, or None for a network that can't run without its numbers.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 -- it imports Triton

    backward: Any = torch.ops.aten.convolution_backward
    counter = FlopCounterMode(display=False, custom_mapping={backward: _convolution_backward})
    try:
        copied = copy.deepcopy(net, {id(parameter): _without_storage(parameter) for parameter in net.parameters()})
        copied = copied.to("meta").eval()
        with counter:
            output = copied(torch.zeros(1, 3, *input_size, device="meta"))
            output.sum().backward()
    except Exception:  # noqa: BLE001 -- a network may fail without numbers in any way, which must not stop training
        return None
    return counter.get_total_flops()


def _convolution_backward(
    gradient_shape: list[int], x_shape: list[int], w_shape: list[int], *arguments: object, **_keywords: object
) -> int:
    """Count the backward pass of a convolution: the gradients of input and weight take as long as the forward pass.

    PyTorch's own formula is that of a convolution without groups.
    """
    from torch.utils.flop_counter import conv_flop_count  # noqa: PLC0415 -- as above

    input_needed, weight_needed, _ = cast("list[bool]", arguments[-1])
    forward = conv_flop_count(x_shape, w_shape, gradient_shape)
    return forward * (input_needed + weight_needed)


def _without_storage(parameter: nn.Parameter) -> Any:  # noqa: ANN401 -- deepcopy's memo holds anything
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)


def peak_flops(device: str, precision: str) -> float | None:
    """Return the peak rate of a GPU, by its name, in operations a second; None for a device that is not known."""
    found = next((rates for part, rates in _PEAKS.items() if part in device), None)
    return found[_PRECISIONS[precision]] * 1e12 if found else None
