"""Section `deepspeed` of the config: the ZeRO stage and further DeepSpeed settings."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, cast

from stylefinetune.config.data import require

# DeepSpeed's keys that are derived from our settings; each includes the keys below it.
DERIVED_KEYS = {
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
# Keys that move weights or momenta to where checkpoints can't find them, or that change what is trained.
UNSUPPORTED_KEYS = (
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
    """Settings of --engine deepspeed; DeepSpeed's own configuration is derived from these and the other sections.

    Attributes:
        zero_stage: what is partitioned among the ranks: 0 nothing, 1 momenta, 2 also gradients, 3 also weights.
        extra: further keys of DeepSpeed's configuration, for example zero_optimization: {reduce_bucket_size: 50000000}.
    """

    zero_stage: Literal[0, 1, 2, 3] = 1
    extra: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for key in _paths(self.extra):
            require(
                not any(derived.startswith(f"{key}.") for derived in DERIVED_KEYS),
                f"deepspeed.extra: {key} must be a mapping, for example {key}: {{reduce_bucket_size: 50000000}}",
            )
            for derived, ours in DERIVED_KEYS.items():
                require(
                    not _contains(derived, key), f"deepspeed.extra: {key} follows from {ours}; remove it and set {ours}"
                )
            for unsupported in UNSUPPORTED_KEYS:
                require(
                    not _contains(unsupported, key),
                    f"deepspeed.extra: {key} can't be combined with this trainer's checkpoints; remove it",
                )


def _contains(prefix: str, key: str) -> bool:
    return f"{key}.".startswith(f"{prefix}.")


def _paths(extra: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of each value."""
    for key, value in extra.items():
        if isinstance(value, dict) and value:
            yield from _paths(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
