"""Section `deepspeed` of the config: the ZeRO stage and further DeepSpeed settings."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, cast

from stylefinetune.config.data import require

# DeepSpeed's keys that are derived from our settings; each includes the keys below it.
_DERIVED = {
    "data.batch_size": ("train_batch_size", "train_micro_batch_size_per_gpu"),
    "train.iter_size": ("gradient_accumulation_steps", "managed_gradient_accumulation"),
    "train.precision": ("bf16", "bfloat16", "fp16", "data_types", "torch_autocast"),
    "optim": ("optimizer", "zero_allow_untested_optimizer"),
    "optim.lr_policy": ("scheduler",),
    "optim.clip_gradients": ("gradient_clipping", "zero_optimization.compute_grad_norm"),
    "tracking.wandb": ("wandb",),
    "deepspeed.zero_stage": ("zero_optimization.stage",),
}
DERIVED_KEYS = {key: ours for ours, keys in _DERIVED.items() for key in keys}
# Keys that move weights or momenta to where checkpoints can't find them, or that change what is trained.
_UNSUPPORTED_ZERO = (
    *("cpu_offload", "cpu_offload_params", "offload_optimizer", "offload_param"),
    *("zero_quantized_gradients", "zero_quantized_weights", "zero_quantized_nontrainable_weights"),
    *("mics_shard_size", "zero_hpz_partition_size", "zenflow"),
)
UNSUPPORTED_KEYS = (
    *(f"zero_optimization.{key}" for key in _UNSUPPORTED_ZERO),
    *("data_parallel_size", "expert_parallel", "sequence_parallel_size", "tensor_parallel"),
    *("compression_training", "data_efficiency", "elasticity", "hybrid_engine", "progressive_layer_drop"),
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
        for key, _ in flatten(self.extra):
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


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted key."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
