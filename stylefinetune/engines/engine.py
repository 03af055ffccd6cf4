"""The interface between the training loop and an engine."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch

from stylefinetune.data.dataset import Batch
from stylefinetune.engines.norms.layer_norms import LayerNorms
from stylefinetune.engines.phase_clock import PhaseClock


@dataclasses.dataclass(frozen=True)
class EngineState:
    """Everything that training changes; the same for every engine and number of ranks."""

    parameters: dict[str, torch.Tensor]  # fp32 weights by name
    buffers: dict[str, torch.Tensor]  # of the network, by name
    # State of the optimizer, and the average of the weights: slot -> name -> tensor; see optim.optimizers.
    slots: dict[str, dict[str, torch.Tensor]]
    scalars: dict[str, float] = dataclasses.field(default_factory=dict[str, float])  # such as the loss scale of fp16


class Engine(Protocol):
    """Trains a network on all ranks. Every method is collective: all ranks call the same ones in the same order."""

    phases: PhaseClock  # of train_step: transform, forward, backward, all_reduce where it is not within that, update
    norms: LayerNorms  # of the gradients and the update of train_step

    def train_step(self, iteration: int, micro_batches: Sequence[Batch], lr: float) -> torch.Tensor:
        """Update the weights once, with the mean gradient of the micro-batches.

        Args:
            iteration: seed of dropout.
            micro_batches: this rank's slices of them.
            lr: learning rate before the layers' multipliers.

        Returns:
            This rank's part of the loss, a scalar on the device: the sum over the ranks is the mean over all pictures.
        """
        ...

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits, float[b, classes], in evaluation mode and without gradients."""
        ...

    def forward_average(self, batch: Batch) -> torch.Tensor:
        """Return the logits by the average of the weights, like `forward`; train.ema_decay must be set."""
        ...

    def scalars(self) -> dict[str, float]:
        """Return the scalars of the state; waits for the device if there are any."""
        ...

    def state(self) -> EngineState:
        """Return the state; the next step may overwrite its tensors."""
        ...

    def load(self, state: EngineState) -> None:
        """Load a state."""
        ...
