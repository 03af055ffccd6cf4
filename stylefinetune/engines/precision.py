"""Faster computation of the same recipe: bfloat16 or float16, channels last, torch.compile."""

import contextlib
from collections.abc import Callable

import torch

from stylefinetune.config.schema import TrainConfig
from stylefinetune.errors import UserError

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}  # values of train.precision besides fp32


def check_precision(train: TrainConfig, device: torch.device) -> None:
    """Check that torch.compile works, if it is enabled, by compiling a tiny function; takes some seconds at first.

    Raises:
        UserError: it does not work.
    """
    if not train.compile:
        return
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except RuntimeError as error:  # base class of torch.compile's errors
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"train.compile is on, but torch.compile can't compile here: {reason.strip()}; install g++ and Python's "
            "headers (python3-dev), or disable train.compile"
        ) from error


def memory_format(train: TrainConfig) -> torch.memory_format:
    """Return the memory format that train.channels_last selects; not set, as in `settle_memory_format`, is on."""
    return torch.contiguous_format if train.channels_last is False else torch.channels_last


def to_memory_format(pictures: torch.Tensor, train: TrainConfig) -> torch.Tensor:
    """Return pictures [B, 3, H, W] in the memory format that train.channels_last selects."""
    return pictures.contiguous(memory_format=memory_format(train))


def compute(network: Callable[..., torch.Tensor], pictures: torch.Tensor, train: TrainConfig) -> torch.Tensor:
    """Return the logits of a batch, computed with the precision of `train`; the logits are always fp32."""
    pictures = to_memory_format(pictures, train)
    # torch.compile's convolutions fail in the backward pass of an empty batch (PyTorch 2.14).
    with contextlib.nullcontext() if len(pictures) else uncompiled(train):
        if train.precision not in REDUCED:
            return network(pictures)
        with torch.autocast(pictures.device.type, dtype=REDUCED[train.precision]):
            return network(pictures).float()


def uncompiled(train: TrainConfig) -> contextlib.AbstractContextManager[None]:
    """Return a context in which compiled networks run uncompiled."""
    return torch.compiler.set_stance("force_eager") if train.compile else contextlib.nullcontext()
