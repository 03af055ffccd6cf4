"""Training with DeepSpeed: weights, gradients and momenta divided among the ranks, as its stage says (ZeRO).

DeepSpeed is imported when an engine is made, and not before: that takes seconds, and the other engine does without it.
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
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import EngineState
from stylefinetune.engines.loss_scale import HostScaler, doubt, open_scaler, restore, scalars_of
from stylefinetune.engines.precision import REDUCED, lay_out
from stylefinetune.engines.torch_engine import dropout_seed, loss_share
from stylefinetune.engines.zero_state import open_state
from stylefinetune.errors import UserError
from stylefinetune.optim.caffe_sgd import MOMENTUM, CaffeSGD, param_groups

LOG = "deepspeed.log"


def check_deepspeed(config: Config) -> None:
    """Sees that a run can train with DeepSpeed.

    Raises:
        UserError: it isn't installed, or can't do what the config asks for.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("--engine deepspeed needs DeepSpeed: pip install 'deepspeed>=0.19.8', or use --engine torch")
    if config.optim.clip_gradients == 0:
        raise UserError(
            "optim.clip_gradients is 0, which for DeepSpeed means not to clip; give -1, or use --engine torch"
        )
    stage = config.deepspeed.zero_stage
    if config.optim.lars_trust and stage > 0:
        raise UserError(
            f"optim.lars_trust is {config.optim.lars_trust:g}, but LARS needs the norms of whole tensors, which "
            f"deepspeed.zero_stage {stage} cuts up; give deepspeed.zero_stage 0, or use --engine torch"
        )
    if config.train.compile:
        raise UserError("train.compile is for --engine torch; leave it out, or leave out --engine deepspeed")


def derive(config: Config, world_size: int) -> dict[str, Any]:
    """Returns what DeepSpeed is told: its JSON, as a dict."""
    stage, clip = config.deepspeed.zero_stage, config.optim.clip_gradients
    zero: dict[str, Any] = {"stage": stage}
    if stage in (1, 2) and clip < 0:
        zero["compute_grad_norm"] = False  # it would wait for the device, and leave a step out where it isn't finite
    derived = {
        # Slices differ in size, and the loss is weighed by us; DeepSpeed only wants to be told some number.
        "train_micro_batch_size_per_gpu": max(1, config.data.batch_size // world_size),
        "gradient_accumulation_steps": config.train.iter_size,
        # Caffe clips the sum over the micro-batches, DeepSpeed their mean; not told, it would clip to 1.
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
    """An Engine over `net`.

    Args:
        net: on any device; its parameters' requires_grad is set from optim.layers.
        transforms: from a batch's pictures to the net's input, in training and in testing.
        config: the run's.
        world: the ranks that train together.

    Raises:
        UserError: DeepSpeed refuses what deepspeed.extra asks for.
    """

    def __init__(self, net: nn.Module, transforms: tuple[Transform, Transform], config: Config, world: World) -> None:
        self._config = config
        self._world = world
        self._train_transform, self._test_transform = transforms
        net = net.to(world.device)  # DeepSpeed fails on weights in channels_last; the pictures' layout is enough
        parameters = dict(net.named_parameters())
        self._optimizer = CaffeSGD(param_groups(net, config.optim.layers), config.optim)
        self._optimizer.state.clear()  # DeepSpeed puts other tensors in the parameters' place
        with _quiet(Path(config.run_dir) / LOG):
            self._engine = _initialize(net, self._optimizer, config, world)
        self._state = open_state(self._engine.optimizer, parameters, config.deepspeed.zero_stage)
        self._scaler = _open_scaler(self._engine, world, enabled=config.train.precision == "fp16")

    def train_step(self, iteration: int, micro_batches: Sequence[Batch], lr: float) -> torch.Tensor:
        """See Engine."""
        torch.manual_seed(dropout_seed(self._config.train.seed, iteration, self._world.rank))
        self._engine.train()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if isinstance(self._scaler, HostScaler):
            self._engine.optimizer.override_loss_scale(self._scaler.value)
        shares: list[torch.Tensor] = []
        for batch in micro_batches:
            pictures = self._train_transform(batch.pictures, batch.crops)
            logits = self._engine(lay_out(pictures, self._config.train))
            share = loss_share(logits.float(), batch, len(micro_batches))
            # DeepSpeed takes the mean over the ranks.
            self._engine.backward(share * self._world.size, scale_wrt_gas=False)
            self._engine.step()
            shares.append(share.detach())
        overflow: bool = getattr(self._engine.optimizer, "overflow", False)  # a gradient isn't finite; nothing moved
        if isinstance(self._scaler, HostScaler):
            self._scaler.update(overflow=overflow)
        if self._scaler.is_enabled():
            shares.append(doubt(self._scaler, shares[0]))
        elif overflow:
            shares.append(torch.full_like(shares[0], math.nan))
        return torch.stack(shares).sum()

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See Engine."""
        self._engine.eval()
        pictures = self._test_transform(batch.pictures, batch.crops)
        return self._engine(lay_out(pictures, self._config.train)).float()

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        return scalars_of(self._scaler)

    @torch.no_grad()
    def state(self) -> EngineState:
        """See Engine."""
        parameters, momenta = self._state.gather()
        buffers = dict(self._engine.module.named_buffers())
        return EngineState(parameters, buffers, {MOMENTUM: momenta}, self.scalars())

    @torch.no_grad()
    def load(self, state: EngineState) -> None:
        """See Engine."""
        for name, tensor in self._engine.module.named_buffers():
            tensor.copy_(state.buffers[name])
        self._state.put(state.parameters, state.slots[MOMENTUM])
        restore(self._scaler, state.scalars)


def _initialize(net: nn.Module, optimizer: CaffeSGD, config: Config, world: World) -> Any:  # noqa: ANN401 -- DeepSpeed has no types
    import deepspeed  # noqa: PLC0415 -- see the module's first lines
    import deepspeed.ops  # noqa: PLC0415
    from deepspeed.runtime.config import DeepSpeedConfigError  # noqa: PLC0415

    # For inference only; where it counts as compatible, each start compiles it, for a minute and a half the first time.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():  # a world of one; DeepSpeed would ask for mpi4py
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # as World takes it
    try:
        return deepspeed.initialize(model=net, optimizer=optimizer, config=derive(config, world.size))[0]
    except (ValueError, TypeError, AttributeError, AssertionError, ImportError, DeepSpeedConfigError) as error:
        if not config.deepspeed.extra:
            raise
        said = " ".join(str(error).split())
        raise UserError(f"DeepSpeed refuses what deepspeed.extra asks for: {said}") from error


def _open_scaler(engine: Any, world: World, *, enabled: bool) -> GradScaler | HostScaler:  # noqa: ANN401
    """Returns what scales the loss, and has DeepSpeed use it instead of its own.

    Where gradients are divided, its own would see a rank's part of them alone, so that the other ranks knew nothing of
    an infinite one; and clipping wouldn't know of its scale.
    """
    scaler = open_scaler(world.device, enabled=enabled)
    if not enabled:
        return scaler
    if engine.torch_autocast_z0_gradscaler is not None:
        engine.torch_autocast_z0_gradscaler = scaler
        return scaler
    engine.optimizer.torch_autocast_gradscaler = None
    engine.optimizer.check_grad_overflow = True
    return HostScaler()


@contextlib.contextmanager
def _quiet(log: Path) -> Generator[None]:
    """Sends what DeepSpeed says to a file: what it prints as long as the block lasts, what it logs for good."""
    log.parent.mkdir(parents=True, exist_ok=True)  # the lead may be later than this rank
    file = log.open("a", buffering=1, encoding="utf-8")
    # It calls what PyTorch has renamed since, and would be told so at every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    with contextlib.redirect_stdout(file):  # its logger keeps the stream that it finds when it is imported
        yield
