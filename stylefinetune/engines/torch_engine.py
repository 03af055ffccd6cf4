"""Training with PyTorch alone: one process, or DistributedDataParallel over many."""

import contextlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from stylefinetune.config.schema import OptimConfig, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import EngineState
from stylefinetune.engines.loss_scale import doubt, open_scaler, restore, scalars_of
from stylefinetune.engines.precision import compute, uncompiled
from stylefinetune.optim.caffe_sgd import MOMENTUM, CaffeSGD, clip_gradients, param_groups


class TorchEngine:
    """An Engine over `net`.

    Args:
        net: on any device; its parameters' requires_grad is set from optim.layers.
        transforms: from a batch's pictures to the net's input, in training and in testing.
        optim: the solver.
        world: the ranks that train together.
        train: seed of dropout, and the switches.
        input_size: (height, width) of the net's input in training.
    """

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
        self.net = net.to(world.device)
        if train.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] -- it does take one
        self.optimizer = CaffeSGD(param_groups(self.net, optim.layers), optim)
        self.scaler = open_scaler(world.device, enabled=train.precision == "fp16")
        # Beneath DDP: around it, torch.compile leaves all as it is, without a word.
        self.replica: nn.Module = cast("nn.Module", torch.compile(self.net)) if train.compile else self.net
        if world.size > 1:
            self.replica = DistributedDataParallel(self.replica, gradient_as_bucket_view=True)
            self._settle_buckets(input_size)

    def _settle_buckets(self, input_size: tuple[int, int]) -> None:
        """Does one backward pass that leaves no trace.

        DDP arranges its gradient buckets anew after its first backward pass, and so changes the order of its sums;
        without this, the first step after a resume would differ in the last digit from the same step of a run that
        was never stopped.
        """
        blank = torch.zeros(1, 3, *input_size, device=self.world.device)
        with uncompiled(self.train):  # no need to compile for one picture
            (self.replica(blank).sum() * 0).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def train_step(self, iteration: int, micro_batches: Sequence[Batch], lr: float) -> torch.Tensor:
        """See Engine."""
        torch.manual_seed(dropout_seed(self.train.seed, iteration, self.world.rank))
        self.replica.train()
        shares = [self._backward(batch, len(micro_batches), last=batch is micro_batches[-1]) for batch in micro_batches]
        self.scaler.unscale_(self.optimizer)
        if self.optim.clip_gradients >= 0:
            # Caffe clips the sum over the micro-batches; what lies here is their mean.
            clip_gradients(self.optimizer, self.optim.clip_gradients / len(micro_batches))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            shares.append(doubt(self.scaler, shares[0]))
        return torch.stack(shares).sum()

    def _backward(self, batch: Batch, iter_size: int, *, last: bool) -> torch.Tensor:
        """Adds a micro-batch's gradients and returns this rank's share of its loss."""
        waits = isinstance(self.replica, DistributedDataParallel) and not last
        with self.replica.no_sync() if waits else contextlib.nullcontext():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue] -- no_sync is DDP's
            logits = compute(self.replica, self.train_transform(batch.pictures, batch.crops), self.train)
            share = loss_share(logits, batch, iter_size)
            self.scaler.scale(share * self.world.size).backward()  # DDP takes the mean over the ranks
        return share.detach()

    @torch.no_grad()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See Engine."""
        self.net.eval()
        return compute(self.net, self.test_transform(batch.pictures, batch.crops), self.train)

    def scalars(self) -> dict[str, float]:
        """See Engine."""
        return scalars_of(self.scaler)

    def state(self) -> EngineState:
        """See Engine."""
        parameters = dict(self.net.named_parameters())
        kept = self.optimizer.state
        return EngineState(
            parameters={name: parameter.detach() for name, parameter in parameters.items()},
            buffers=dict(self.net.named_buffers()),
            slots={
                MOMENTUM: {
                    name: kept[parameter][MOMENTUM] for name, parameter in parameters.items() if parameter in kept
                }
            },
            scalars=self.scalars(),
        )

    @torch.no_grad()
    def load(self, state: EngineState) -> None:
        """See Engine."""
        own = self.state()
        for name, tensor in (own.parameters | own.buffers).items():
            tensor.copy_((state.parameters | state.buffers)[name])
        for name, velocity in own.slots[MOMENTUM].items():
            if name in state.slots[MOMENTUM]:  # a layer that was frozen until now has none, and starts at rest
                velocity.copy_(state.slots[MOMENTUM][name])
        restore(self.scaler, state.scalars)


def loss_share(logits: torch.Tensor, batch: Batch, iter_size: int) -> torch.Tensor:
    """Returns this rank's share of the loss of one of `iter_size` micro-batches; the ranks' sum is the mean.

    The loss is summed over the slice and divided by the whole batch, so that slices of unequal size, or empty ones,
    weigh every picture alike.
    """
    labels = batch.labels.to(logits.device, non_blocking=True)
    loss = functional.cross_entropy(logits, labels, reduction="sum", ignore_index=CORRUPT_LABEL)
    return loss / (batch.size * iter_size)


def dropout_seed(seed: int, iteration: int, rank: int) -> int:
    """Returns what to seed torch with for an iteration, so that dropout doesn't hang on what came before."""
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
