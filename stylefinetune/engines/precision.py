"""The switches that make the same recipe faster: bfloat16 or float16, channels last, torch.compile."""

import contextlib
from collections.abc import Callable

import torch

from stylefinetune.config.schema import TrainConfig
from stylefinetune.errors import UserError

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}  # train.precision, where it isn't fp32


def check_precision(train: TrainConfig, device: torch.device) -> None:
    """Sees that torch.compile works here, by having it compile next to nothing; takes some seconds the first time.

    Raises:
        UserError: it is asked for and doesn't work.
    """
    if not train.compile:
        return
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except RuntimeError as error:  # what torch.compile raises are kinds of it
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"train.compile is on, but torch.compile can't compile here: {said.strip()}; install g++ and Python's "
            "headers (python3-dev), or leave train.compile out"
        ) from error


def lay_out(pictures: torch.Tensor, train: TrainConfig) -> torch.Tensor:
    """Returns the network's input, [B, 3, H, W], laid out as train.channels_last says."""
    return pictures.contiguous(memory_format=torch.channels_last) if train.channels_last else pictures


def compute(network: Callable[..., torch.Tensor], pictures: torch.Tensor, train: TrainConfig) -> torch.Tensor:
    """Returns the logits of a batch, computed as `train` says; they are fp32 in any case."""
    pictures = lay_out(pictures, train)
    # torch.compile's convolutions fail in the backward pass of no pictures (PyTorch 2.14).
    with contextlib.nullcontext() if len(pictures) else uncompiled(train):
        if train.precision not in REDUCED:
            return network(pictures)
        with torch.autocast(pictures.device.type, dtype=REDUCED[train.precision]):
            return network(pictures).float()


def uncompiled(train: TrainConfig) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which what torch.compile has made is as it was."""
    return torch.compiler.set_stance("force_eager") if train.compile else contextlib.nullcontext()
