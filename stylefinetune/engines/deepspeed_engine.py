"""Trains with DeepSpeed, which partitions weights, gradients and optimizer states among the ranks (ZeRO).

DeepSpeed is imported only when an engine is built: the import takes seconds, and the other engine does not need it.
"""

import contextlib
import importlib.util
import math
import os
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.amp import GradScaler
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage] -- documented all the same

from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch
from stylefinetune.data.mixing.mix import mix_pictures
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import EngineState
from stylefinetune.engines.loss_scale import (
    HostScaler,
    Scaler,
    build_scaler,
    nan_below_min_scale,
    restore_scaler,
    scaler_scalars,
)
from stylefinetune.engines.phase_clock import PhaseClock
from stylefinetune.engines.precision import REDUCED, to_memory_format
from stylefinetune.engines.running_statistics import share_statistics
from stylefinetune.engines.torch_engine import average_logits, seed_dropout
from stylefinetune.engines.zero_state import build_norms, build_zero_state
from stylefinetune.errors import UserError
from stylefinetune.losses.loss import Loss, head_weights
from stylefinetune.models.batch_norm import local_statistics
from stylefinetune.models.build import run_network
from stylefinetune.models.state import stored_buffers
from stylefinetune.optim.optimizers import build_optimizer, slots_of
from stylefinetune.optim.param_groups import freeze_groups, param_groups
from stylefinetune.optim.weight_average import EMA, WeightAverage

LOG = "deepspeed.log"


def check_deepspeed(config: Config) -> None:
    """Check that a run can train with DeepSpeed.

    Raises:
        UserError: it is not installed, or does not support a setting.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("--engine deepspeed needs DeepSpeed: pip install 'deepspeed>=0.19.8', or use --engine torch")
    if config.optim.clip_gradients == 0:
        raise UserError(
            "optim.clip_gradients is 0, which disables clipping in DeepSpeed; set -1, or use --engine torch"
        )
    stage = config.deepspeed.zero_stage
    if config.optim.lars_trust and stage > 0:
        raise UserError(
            f"optim.lars_trust is {config.optim.lars_trust:g}, but LARS needs the norms of whole tensors, which "
            f"deepspeed.zero_stage {stage} partitions; set deepspeed.zero_stage to 0, or use --engine torch"
        )
    if config.train.ema_decay and stage == 3:
        raise UserError(
            f"train.ema_decay is {config.train.ema_decay:g}, but at deepspeed.zero_stage 3 no rank has all weights to "
            "average; set deepspeed.zero_stage to 2 or less, or use --engine torch"
        )
    for name in ("compile", "cuda_graph"):
        if getattr(config.train, name):
            raise UserError(f"train.{name} is for --engine torch; remove it, or remove --engine deepspeed")


def derive_config(config: Config, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration."""
    stage, clip = config.deepspeed.zero_stage, config.optim.clip_gradients
    zero: dict[str, Any] = {"stage": stage}
    if stage in (1, 2) and clip < 0:
        zero["compute_grad_norm"] = False  # it would wait for the device, and skip the step if it is not finite
    derived = {
        # Required by DeepSpeed, but without effect: slices differ in size, and this module weights the loss.
        "train_micro_batch_size_per_gpu": max(1, config.data.batch_size // world_size),
        "gradient_accumulation_steps": config.train.iter_size,
        # Caffe clips the sum over the micro-batches, DeepSpeed the mean. DeepSpeed's default is 1.
        "gradient_clipping": max(0.0, clip / config.train.iter_size),
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {
            "enabled": config.train.precision in REDUCED,
            "dtype": str(REDUCED.get(config.train.precision, torch.bfloat16)).removeprefix("torch."),
        },
    }
    return _merge(derived, config.deepspeed.extra)


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], cast("dict[str, Any]", value)) if both else value
    return merged


class DeepSpeedEngine:
    """An Engine, see `stylefinetune.engines.build`. It sets requires_grad of the parameters from optim.layers.

    Raises:
        UserError: DeepSpeed rejects deepspeed.extra.
    """

    def __init__(self, net: nn.Module, transforms: tuple[Transform, Transform], config: Config, world: World) -> None:
        self._config = config
        self._world = world
        self._loss = Loss(config.train, world.device, head_weights(net))
        self.phases = PhaseClock(world.device)
        self._train_transform, self._test_transform = transforms
        net = net.to(world.device)  # DeepSpeed fails on channels-last weights; channels-last pictures suffice
        parameters = dict(net.named_parameters())
        self._average = WeightAverage(net, config.train.ema_decay) if config.train.ema_decay else None
        self._optimizer = build_optimizer(param_groups(net, config.optim), config.optim)
        trained = {name: value for name, value in parameters.items() if value.requires_grad}
        self._optimizer.state.clear()  # DeepSpeed replaces the parameters by other tensors
        _zero_frozen_gradients(self._optimizer)
        with _redirect_output(Path(config.run_dir) / LOG):
            self._engine = _initialize(net, self._optimizer, config, world)
        self._statistics = local_statistics(self._engine.module)
        slots = slots_of(config.optim)
        self._state = build_zero_state(self._engine.optimizer, parameters, slots, config.deepspeed.zero_stage)
        self._scaler = _build_scaler(self._engine, world, enabled=config.train.precision == "fp16")
        self._clip_norm: float = self._engine.gradient_clipping()
        self.norms = build_norms(self._state, trained, world)
        self._optimizer.register_step_pre_hook(lambda optimizer, *_: self.norms.before_step(optimizer))
        self._optimizer.register_step_post_hook(lambda *_: self.norms.after_step())

    def train_step(self, iteration: int, micro_batches: Sequence[Batch], lr: float) -> torch.Tensor:
        """See Engine."""
        seed_dropout(self._world, self._config.train.seed, iteration)
        share_statistics(self._statistics, self._world)
        self._engine.train()
        freeze_groups(self._optimizer, iteration)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if isinstance(self._scaler, HostScaler):
            self._engine.optimizer.override_loss_scale(self._scaler.value)
        losses: list[torch.Tensor] = []
        for batch in micro_batches:
            with self.phases.phase("transform"):
                pictures = mix_pictures(self._train_transform(batch.pictures, batch.crops), batch.labels, batch.mix)
            with self.phases.phase("forward"):
                logits = run_network(self._engine, to_memory_format(pictures, self._config.train))
                loss = self._loss(logits.float(), batch, len(micro_batches))
            with self.phases.phase("backward"):
                # DeepSpeed averages over the ranks.
                self._engine.backward(loss * self._world.size, scale_wrt_gas=False)
            with self.phases.phase("update"):
                self._step(last=batch is micro_batches[-1])
            losses.append(loss.detach())
        overflow: bool = getattr(
            self._engine.optimizer, "overflow", False
        )  # a gradient is not finite; the update was skipped
        if isinstance(self._scaler, HostScaler):
            self._scaler.update(overflow=overflow)
        if self._scaler.is_enabled():
            losses.append(nan_below_min_scale(self._scaler, losses[0]))
        elif overflow:
            losses.append(torch.full_like(losses[0], math.nan))
        if self._average:
            self._average.update()
        return torch.stack(losses).sum()

    def _step(self, *, last: bool) -> None:
        """End a micro-batch, the last one with the update, whose norms are measured before clipping."""
        clips = self._clip_norm > 0
        if last and self._config.deepspeed.zero_stage == 0:
            if isinstance(self._scaler, GradScaler) and not clips:
                self._scaler.unscale_(self._optimizer)  # DeepSpeed does it only to clip
            if self.norms.is_measuring:
                self.norms.before_step(self._optimizer)
                self.norms.scale_gradients(1 / self._scaler.state_dict().get("scale", 1.0) if clips else 1.0)
        self._engine.step()
        norm = self._engine.get_global_grad_norm() if clips and self.norms.is_measuring else None
        if norm is not None:  # the hook of the optimizer has measured clipped gradients
            self.norms.scale_gradients(max(1.0, (float(norm) + 1e-6) / self._clip_norm))

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See Engine."""
        share_statistics(self._statistics, self._world)
        self._engine.eval()
        pictures = self._test_transform(batch.pictures, batch.crops)
        return run_network(self._engine, to_memory_format(pictures, self._config.train)).float()

    def forward_average(self, batch: Batch) -> torch.Tensor:
        """See Engine."""
        assert self._average
        return average_logits(self._average, batch, self._test_transform, self._config.train, self._world)

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        return scaler_scalars(self._scaler)

    @torch.no_grad()
    def state(self) -> EngineState:
        """See Engine."""
        parameters, slots = self._state.gather()
        if self._average:
            slots = slots | {EMA: self._average.tensors()}
        return EngineState(parameters, stored_buffers(self._engine.module), slots, self.scalars())

    @torch.no_grad()
    def load(self, state: EngineState) -> None:
        """See Engine."""
        for name, tensor in stored_buffers(self._engine.module).items():
            tensor.copy_(state.buffers[name])
        self._state.load(state.parameters, state.slots)
        if self._average:
            self._average.load(state.slots.get(EMA, {}))
        restore_scaler(self._scaler, state.scalars)


def _zero_frozen_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let the gradients of frozen groups be 0 while they are frozen, so that they have no part in a clipped norm.

    DeepSpeed decides once which parameters have a gradient, those that require one when it starts.
    """

    def register(parameter: torch.Tensor, group: dict[str, Any]) -> None:
        parameter.register_hook(lambda gradient: torch.zeros_like(gradient) if group["frozen"] else gradient)

    for group in optimizer.param_groups:
        for parameter in group["params"] if group["freeze_until"] else ():
            register(parameter, group)


def _initialize(net: nn.Module, optimizer: torch.optim.Optimizer, config: Config, world: World) -> Any:  # noqa: ANN401 -- DeepSpeed has no types
    import deepspeed  # noqa: PLC0415 -- see the module's docstring
    import deepspeed.ops  # noqa: PLC0415
    from deepspeed.runtime.config import DeepSpeedConfigError  # noqa: PLC0415

    # For inference only. If it counts as compatible, each start compiles it, which takes 90 s the first time.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():  # a world of one; DeepSpeed would require mpi4py
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # the same default as in World
    try:
        return deepspeed.initialize(model=net, optimizer=optimizer, config=derive_config(config, world.size))[0]
    except (ValueError, TypeError, AttributeError, AssertionError, ImportError, DeepSpeedConfigError) as error:
        if not config.deepspeed.extra:
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"DeepSpeed rejects deepspeed.extra: {reason}") from error


def _build_scaler(engine: Any, world: World, *, enabled: bool) -> Scaler:  # noqa: ANN401
    """Return the loss scaler, and make DeepSpeed use it.

    If gradients are partitioned, DeepSpeed's scaler would check only this rank's partition, so the other ranks would
    miss an infinite gradient; and its clipping would ignore the scale.
    """
    scaler = build_scaler(world.device, enabled=enabled)
    if not enabled:
        return scaler
    if engine.torch_autocast_z0_gradscaler is not None:
        engine.torch_autocast_z0_gradscaler = scaler
        return scaler
    engine.optimizer.torch_autocast_gradscaler = None
    engine.optimizer.check_grad_overflow = True
    return HostScaler()


@contextlib.contextmanager
def _redirect_output(log: Path) -> Generator[None]:
    """Redirect DeepSpeed's output to a file: its prints within the context, its log messages for good."""
    log.parent.mkdir(parents=True, exist_ok=True)  # rank 0 may not have created it yet
    file = log.open("a", buffering=1, encoding="utf-8")
    # DeepSpeed calls deprecated functions of PyTorch at every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    with contextlib.redirect_stdout(file):  # its logger keeps the stdout of the time of the import
        yield
