"""Faster computation of the same recipe: TensorFloat-32, bfloat16 or float16, channels last, torch.compile."""

import contextlib
from collections.abc import Callable

import torch

from stylefinetune.config.schema import TrainConfig
from stylefinetune.errors import UserError
from stylefinetune.models.build import run_network

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}  # values of train.precision besides fp32 and tf32
_TF32_CAPABILITY = (8, 0)  # of NVIDIA's Ampere generation


def check_precision(train: TrainConfig, device: torch.device) -> None:
    """Check that the device computes in TensorFloat-32 and that torch.compile works, if they are enabled.

    The check of torch.compile compiles a tiny function, which takes some seconds at first.

    Raises:
        UserError: one of them does not work.
    """
    if train.precision == "tf32" and not _has_tf32(device):
        raise UserError(
            "train.precision is tf32, which only NVIDIA's GPUs since Ampere (compute capability 8.0) compute, and "
            f"there is {'an older one' if device.type == 'cuda' else 'none'} here; use fp32 or bf16"
        )
    if not train.compile:
        return
    try:
        torch.compile(_double)(torch.ones(2, device=device))
    except RuntimeError as error:  # base class of torch.compile's errors
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"train.compile is on, but torch.compile can't compile here: {reason.strip()}; install g++ and Python's "
            "headers (python3-dev), or disable train.compile"
        ) from error


def _double(tensor: torch.Tensor) -> torch.Tensor:
    """Return twice the tensor.

    It is in Python since PyTorch compiles its own functions and the network inside the same wrapper. The network would
    then be compiled a second time for the wrapper, for inputs of any size, which is slower and fails for some networks.
    """
    return tensor + tensor


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _TF32_CAPABILITY


def set_tf32(train: TrainConfig) -> None:
    """Let this process compute fp32 matrix products and convolutions on GPUs in TensorFloat-32, or forbid it.

    PyTorch's default is to forbid it for matrix products only. These are the older names of the switches: after the
    newer ones, `fp32_precision`, PyTorch 2.14 raises an error where other code reads the older ones.
    """
    allowed = train.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def memory_format(train: TrainConfig) -> torch.memory_format:
    """Return the memory format that train.channels_last selects; not set, as in `resolve_memory_format`, is on."""
    return torch.contiguous_format if train.channels_last is False else torch.channels_last


def to_memory_format(pictures: torch.Tensor, train: TrainConfig) -> torch.Tensor:
    """Return pictures [B, 3, H, W] in the memory format that train.channels_last selects."""
    return pictures.contiguous(memory_format=memory_format(train))


def compute(network: Callable[..., torch.Tensor], pictures: torch.Tensor, train: TrainConfig) -> torch.Tensor:
    """Return the logits of a batch, computed with the precision of `train`; the logits are always fp32."""
    pictures = to_memory_format(pictures, train)
    # A rank without pictures runs the network for one, which is not worth compiling.
    with contextlib.nullcontext() if len(pictures) else uncompiled(train):
        if train.precision not in REDUCED:
            return run_network(network, pictures)
        with torch.autocast(pictures.device.type, dtype=REDUCED[train.precision]):
            return run_network(network, pictures).float()


def uncompiled(train: TrainConfig) -> contextlib.AbstractContextManager[None]:
    """Return a context in which compiled networks run uncompiled."""
    return torch.compiler.set_stance("force_eager") if train.compile else contextlib.nullcontext()
