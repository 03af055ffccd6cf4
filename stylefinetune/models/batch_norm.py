"""Which statistics batch normalization uses in training, as model.batch_norm says.

With the running statistics (eval), a picture's scores do not depend on the other pictures of its batch, so a run gives
the same result on any number of ranks. With the batch's statistics (train), they depend on the pictures that a rank
gets.
"""

import contextlib
import functools
from collections.abc import Generator

import torch
from torch import nn

from stylefinetune.config.schema import BatchNormMode
from stylefinetune.errors import UserError

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)  # timm's are derived from these


def has_batch_norm(net: nn.Module) -> bool:
    """Return whether the network has batch normalization."""
    return any(isinstance(module, BATCH_NORM) for module in net.modules())


def set_batch_norm(net: nn.Module, mode: BatchNormMode, batch_size: int, ranks: int, device: torch.device) -> nn.Module:
    """Return the network with batch normalization in this mode; its layers are replaced in place.

    Names of parameters and buffers do not change. `batch_size` is that of a batch over all ranks, and `device` the one
    that the network will be trained on.

    Raises:
        UserError: the mode is impossible on the device or with so few pictures.
    """
    if mode == "eval":
        for module in net.modules():
            if isinstance(module, BATCH_NORM):
                freeze_statistics(module)
        return net
    if mode == "sync":
        if device.type != "cuda":
            raise UserError("model.batch_norm is sync, which PyTorch supports on GPUs only; set it to eval or train")
        if any(hasattr(module, "scale_factor") for module in net.modules()):
            raise UserError("model.batch_norm is sync, which Caffe's nets don't support; set it to eval or train")
        return _synchronized(net) if ranks > 1 else net
    if batch_size // ranks < 2:
        raise UserError(
            f"model.batch_norm is train, but data.batch_size {batch_size} gives a rank fewer than 2 of the pictures "
            f"whose statistics are computed; set data.batch_size to at least {2 * ranks}, or model.batch_norm to eval"
        )
    return net


def freeze_statistics(module: nn.Module) -> nn.Module:
    """Make batch normalization use its running statistics in training too; return it."""
    module.__class__ = _frozen(type(module))  # pyright: ignore[reportAttributeAccessIssue] -- a subclass
    return module.train()


def describe_batch_norm(mode: BatchNormMode, ranks: int) -> str:
    """Return the mode in words, for the log."""
    if mode == "eval":
        return "the running statistics, which do not change"
    if mode == "sync" or ranks == 1:
        return "the statistics of the batch"
    return "the statistics of each rank's part of the batch, so that the result depends on the number of ranks"


def local_statistics(net: nn.Module) -> list[torch.Tensor]:
    """Return the running statistics that each rank updates from its own pictures: those of mode train."""
    return [
        buffer
        for module in net.modules()
        if isinstance(module, BATCH_NORM) and not isinstance(module, (_Frozen, nn.SyncBatchNorm))
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


@contextlib.contextmanager
def kept_statistics(net: nn.Module) -> Generator[None]:
    """Return a context in which a forward pass in training mode does not update the running statistics."""
    updating = [module for module in net.modules() if isinstance(module, BATCH_NORM) and module.training]
    for module in updating:
        module.eval()
    try:
        yield
    finally:
        for module in updating:
            module.train()


def _synchronized(net: nn.Module) -> nn.Module:
    if any(type(module).__module__.startswith("timm.") for module in net.modules()):
        from timm.layers.norm_act import convert_sync_batchnorm  # noqa: PLC0415 -- these layers contain an activation

        return convert_sync_batchnorm(net)
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)


class _Frozen(nn.Module):
    """Batch normalization that stays in evaluation mode while the rest of the network is in training mode."""

    def train(self, mode: bool = True) -> "_Frozen":  # noqa: ARG002, FBT001, FBT002 -- nn.Module's signature
        """Stay in evaluation mode."""
        return super().train(False)  # noqa: FBT003


@functools.cache
def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the frozen variant of a class of batch normalization, also of one that timm has derived."""
    return kind if issubclass(kind, _Frozen) else type(f"Frozen{kind.__name__}", (_Frozen, kind), {})
