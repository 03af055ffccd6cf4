"""Section `deepspeed` of the config: what DeepSpeed is to divide among the ranks, and what it may be told besides."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, cast

from stylefinetune.config.data import require

# Keys of DeepSpeed's own JSON that follow from ours; a key holds for all below it.
FOLLOWS = {
    "train_batch_size": "data.batch_size",
    "train_micro_batch_size_per_gpu": "data.batch_size",
    "gradient_accumulation_steps": "train.iter_size",
    "managed_gradient_accumulation": "train.iter_size",
    "gradient_clipping": "optim.clip_gradients",
    "zero_optimization.compute_grad_norm": "optim.clip_gradients",
    "optimizer": "optim",
    "zero_allow_untested_optimizer": "optim",
    "scheduler": "optim.lr_policy",
    "zero_optimization.stage": "deepspeed.zero_stage",
    "bf16": "train.precision",
    "bfloat16": "train.precision",
    "fp16": "train.precision",
    "data_types": "train.precision",
    "torch_autocast": "train.precision",
    "wandb": "tracking.wandb",
}
# Keys that put weights or momenta where a checkpoint doesn't look for them, or train something else than this run.
UNFIT = (
    "zero_optimization.cpu_offload",
    "zero_optimization.cpu_offload_params",
    "zero_optimization.mics_shard_size",
    "zero_optimization.offload_optimizer",
    "zero_optimization.offload_param",
    "zero_optimization.zenflow",
    "zero_optimization.zero_hpz_partition_size",
    "zero_optimization.zero_quantized_gradients",
    "zero_optimization.zero_quantized_nontrainable_weights",
    "zero_optimization.zero_quantized_weights",
    "compression_training",
    "data_efficiency",
    "data_parallel_size",
    "elasticity",
    "expert_parallel",
    "hybrid_engine",
    "progressive_layer_drop",
    "sequence_parallel_size",
    "tensor_parallel",
)


@dataclasses.dataclass(frozen=True)
class DeepSpeedConfig:
    """How --engine deepspeed trains; DeepSpeed's own JSON follows from this and the other sections.

    Attributes:
        zero_stage: what is divided among the ranks: 0 nothing, 1 momenta, 2 gradients too, 3 weights too.
        extra: further keys of DeepSpeed's JSON, such as zero_optimization: {reduce_bucket_size: 50000000}.
    """

    zero_stage: Literal[0, 1, 2, 3] = 1
    extra: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for key in _paths(self.extra):
            require(
                not any(taken.startswith(f"{key}.") for taken in FOLLOWS),
                f"deepspeed.extra: {key} must hold further keys; write such as {key}: {{reduce_bucket_size: 50000000}}",
            )
            for taken, ours in FOLLOWS.items():
                require(
                    not _within(key, taken), f"deepspeed.extra: {key} follows from {ours}; leave it out and set {ours}"
                )
            for taken in UNFIT:
                require(
                    not _within(key, taken),
                    f"deepspeed.extra: {key} does not go together with this trainer's checkpoints; leave it out",
                )


def _within(key: str, taken: str) -> bool:
    return key == taken or key.startswith(f"{taken}.")


def _paths(extra: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted key of each value."""
    for key, value in extra.items():
        if isinstance(value, dict) and value:
            yield from _paths(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
