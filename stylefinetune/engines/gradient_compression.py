"""Sends gradients between the ranks in bfloat16, which halves the bytes of the all-reduce.

Each rank rounds its gradient to 8 significant bits, and the sum over the ranks is rounded again at each addition. The
weights, the momenta and the accumulation over micro-batches stay in fp32. All ranks get the same sum.
"""

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.errors import UserError


def check_gradient_compression(config: Config) -> None:
    """Check that the engine supports train.gradient_compression.

    Raises:
        UserError: it does not.
    """
    compression = config.train.gradient_compression
    if compression != "none" and config.engine == "deepspeed":
        raise UserError(
            f"train.gradient_compression is {compression}, which --engine deepspeed doesn't have; remove it, or use "
            "--engine torch"
        )


def compress_gradients(replica: DistributedDataParallel, train: TrainConfig) -> None:
    """Let `replica` send its gradients as train.gradient_compression selects, from its first backward pass on."""
    if train.gradient_compression == "bf16":
        replica.register_comm_hook(state=None, hook=bf16_compress_hook)
