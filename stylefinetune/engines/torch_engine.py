"""Trains with PyTorch: in one process, or in several that add their gradients in one of three ways."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stylefinetune.config.optim import OptimConfig
from stylefinetune.config.schema import TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.mixing.mix import mix_pictures
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.flat_gradients import FlatGradients
from stylefinetune.distributed.shared_gradients import SharedGradients
from stylefinetune.distributed.world import World
from stylefinetune.engines.cuda_graph import GraphedAccumulation
from stylefinetune.engines.engine import EngineState
from stylefinetune.engines.gradient_compression import compress_gradients
from stylefinetune.engines.loss_scale import build_scaler, nan_below_min_scale, restore_scaler, scaler_scalars
from stylefinetune.engines.norms.layer_norms import LayerNorms
from stylefinetune.engines.phase_clock import PhaseClock
from stylefinetune.engines.precision import compute, memory_format, uncompiled
from stylefinetune.engines.running_statistics import share_statistics
from stylefinetune.losses.loss import Loss, head_weights
from stylefinetune.models.batch_norm import kept_statistics, local_statistics
from stylefinetune.models.state import stored_buffers
from stylefinetune.optim.gradients import clip_gradients
from stylefinetune.optim.optimizers import build_optimizer, load_slot, slots_of
from stylefinetune.optim.param_groups import freeze_groups, param_groups
from stylefinetune.optim.weight_average import EMA, WeightAverage


class TorchEngine:
    """An Engine, see `stylefinetune.engines.build`. It sets requires_grad of the parameters from optim.layers."""

    def __init__(
        self,
        net: nn.Module,
        transforms: tuple[Transform, Transform],
        optim: OptimConfig,
        world: World,
        *,
        train: TrainConfig,
        input_size: tuple[int, int],
    ) -> None:
        self.world = world
        self.train = train
        self.optim = optim
        self.train_transform, self.test_transform = transforms
        self.net = net.to(world.device).to(memory_format=memory_format(train))  # pyright: ignore[reportCallIssue] -- it does take one
        self._statistics = local_statistics(self.net)
        self._average = WeightAverage(self.net, train.ema_decay) if train.ema_decay else None
        self.optimizer = build_optimizer(param_groups(self.net, optim), optim)
        self._input_size = input_size
        self._loss = Loss(train, world.device, head_weights(net))
        self.phases = PhaseClock(world.device)
        self.scaler = build_scaler(world.device, enabled=train.precision == "fp16")
        trained = {name: value for name, value in self.net.named_parameters() if value.requires_grad}
        self.norms = LayerNorms.of_replicas(trained, world)
        self._gradient_sum: SharedGradients | FlatGradients | None = self._share_gradients()
        freeze_groups(self.optimizer, 0)
        self._build_replica()

    def _share_gradients(self) -> SharedGradients | None:
        """Return what adds the gradients in shared memory, or None if DistributedDataParallel has to send them."""
        if self.world.size == 1 or self.world.device.type != "cpu" or self.train.gradient_compression != "none":
            return None
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        shared = SharedGradients.open(trained, self.world)
        if shared:
            self._broadcast_state()
        return shared

    def _broadcast_state(self) -> None:
        """Give all ranks the weights of rank 0, as DistributedDataParallel does."""
        for tensor in self.net.state_dict().values():
            dist.broadcast(tensor, src=0)

    def _build_replica(self) -> None:
        """Build what depends on which parameters are trained; again when layers thaw, see freeze_until of a rule."""
        trained: list[torch.Tensor] = []
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(not group["frozen"])
            trained += [] if group["frozen"] else group["params"]
        # Compiled inside DDP: around DDP, torch.compile silently does nothing.
        self.replica: nn.Module = cast("nn.Module", torch.compile(self.net)) if self.train.compile else self.net
        if self.world.size > 1 and self.train.cuda_graph:
            self._broadcast_state()
            self._gradient_sum = FlatGradients(trained)
        elif self.world.size > 1 and not self._gradient_sum:
            with warnings.catch_warnings():
                # PyTorch 2.14 deprecates broadcast_buffers for an argument that earlier versions do not have.
                warnings.simplefilter("ignore", FutureWarning)
                # share_statistics broadcasts the only buffers that differ between the ranks.
                self.replica = DistributedDataParallel(
                    self.replica, gradient_as_bucket_view=True, broadcast_buffers=False
                )
            compress_gradients(self.replica, self.train)
            self._settle_buckets()
        self._accumulate_gradients = self._accumulate
        if self.train.cuda_graph:
            self._accumulate_gradients = GraphedAccumulation(self._accumulate, trained)

    def _settle_buckets(self) -> None:
        """Do one backward pass without effect.

        DDP rebuilds its gradient buckets after its first backward pass, which changes the order of its sums. Without
        this pass, the first step after a resume would differ in the last digit from the same step of an uninterrupted
        run.
        """
        blank = torch.zeros(1, 3, *self._input_size, device=self.world.device)
        with uncompiled(self.train), kept_statistics(self.net):  # not worth compiling for one picture
            (self.replica(blank).sum() * 0).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def train_step(self, iteration: int, micro_batches: Sequence[Batch], lr: float) -> torch.Tensor:
        """See Engine."""
        if freeze_groups(self.optimizer, iteration):
            self.net.train()
            self._build_replica()
        seed_dropout(self.world, self.train.seed, iteration)
        share_statistics(self._statistics, self.world)
        self.replica.train()
        loss = self._accumulate_gradients(micro_batches)
        if self._gradient_sum:
            changes_gradients = self.scaler.is_enabled() or self.optim.clip_gradients >= 0
            with self.phases.phase("all_reduce"):
                self._gradient_sum.add(private=changes_gradients)
        with self.phases.phase("update"):
            self._update(lr, len(micro_batches))
        return loss + nan_below_min_scale(self.scaler, loss) if self.scaler.is_enabled() else loss

    def _update(self, lr: float, iter_size: int) -> None:
        """Update the weights from the gradients, and delete these."""
        self.scaler.unscale_(self.optimizer)
        self.norms.before_step(self.optimizer)
        if self.optim.clip_gradients >= 0:
            # Caffe clips the sum over the micro-batches; these gradients are the mean.
            clip_gradients(self.optimizer, self.optim.clip_gradients / iter_size)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.norms.after_step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._average.update()

    def _accumulate(self, micro_batches: Sequence[Batch]) -> torch.Tensor:
        """Accumulate the gradients of an iteration and return this rank's part of the loss."""
        losses = [self._backward(batch, len(micro_batches), last=batch is micro_batches[-1]) for batch in micro_batches]
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, iter_size: int, *, last: bool) -> torch.Tensor:
        """Accumulate the gradients of a micro-batch and return this rank's part of its loss."""
        delays_sync = isinstance(self.replica, DistributedDataParallel) and not last
        with self.replica.no_sync() if delays_sync else contextlib.nullcontext():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue] -- no_sync is DDP's
            with self.phases.phase("transform"):
                pictures = mix_pictures(self.train_transform(batch.pictures, batch.crops), batch.labels, batch.mix)
            with self.phases.phase("forward"):
                logits = compute(self.replica, pictures, self.train)
                loss = self._loss(logits, batch, iter_size)
            averaged_over = 1 if self._gradient_sum else self.world.size  # by DistributedDataParallel
            with self.phases.phase("backward"):
                self.scaler.scale(loss * averaged_over).backward()
        return loss.detach()

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See Engine."""
        share_statistics(self._statistics, self.world)
        self.net.eval()
        return compute(self.net, self.test_transform(batch.pictures, batch.crops), self.train)

    def forward_average(self, batch: Batch) -> torch.Tensor:
        """See Engine."""
        assert self._average
        return average_logits(self._average, batch, self.test_transform, self.train, self.world)

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        return scaler_scalars(self.scaler)

    def state(self) -> EngineState:
        """See Engine."""
        parameters = dict(self.net.named_parameters())
        optimizer = self.optimizer.state
        return EngineState(
            parameters={name: parameter.detach() for name, parameter in parameters.items()},
            buffers=stored_buffers(self.net),
            slots={
                slot: {name: optimizer[p][slot] for name, p in parameters.items() if p in optimizer}
                for slot in slots_of(self.optim)
            }
            | ({EMA: self._average.tensors()} if self._average else {}),
            scalars=self.scalars(),
        )

    @torch.no_grad()
    def load(self, state: EngineState) -> None:
        """See Engine."""
        current = self.state()
        for name, tensor in (current.parameters | current.buffers).items():
            tensor.copy_((state.parameters | state.buffers)[name])
        for slot in slots_of(self.optim):
            load_slot(current.slots[slot], state.slots.get(slot, {}))
        if self._average:
            self._average.load(state.slots.get(EMA, {}))
        restore_scaler(self.scaler, state.scalars)


@torch.no_grad()
def average_logits(
    average: WeightAverage, batch: Batch, transform: Transform, train: TrainConfig, world: World
) -> torch.Tensor:
    """Return the logits of a batch by the average of the weights; collective."""
    share_statistics(local_statistics(average.net), world)
    return compute(average.net, transform(batch.pictures, batch.crops), train)


def seed_dropout(world: World, seed: int, iteration: int) -> None:
    """Seed the generator of this rank's device for an iteration, so that dropout does not depend on earlier ones.

    torch.manual_seed would seed those of all devices, which takes 500 times as long.
    """
    drawn = np.random.SeedSequence([seed, iteration, world.rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    device = world.device
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(int(drawn))
