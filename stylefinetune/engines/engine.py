"""The protocol that the loop knows an engine by."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch

from stylefinetune.data.dataset import Batch


@dataclasses.dataclass(frozen=True)
class EngineState:
    """Everything that training changes, whichever engine holds it and on however many ranks.

    Attributes:
        parameters: fp32 masters by name.
        buffers: the network's, by name.
        slots: what the optimizer keeps for each parameter: slot -> parameter's name -> tensor of its shape.
        scalars: numbers that training changes besides, by name, such as fp16's loss scale.
    """

    parameters: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    slots: dict[str, dict[str, torch.Tensor]]
    scalars: dict[str, float] = dataclasses.field(default_factory=dict[str, float])


class Engine(Protocol):
    """Trains one network on all ranks; every method is collective: all ranks call it, in the same order."""

    def train_step(self, iteration: int, micro_batches: Sequence[Batch], lr: float) -> torch.Tensor:
        """Updates the weights once, from the micro-batches' mean gradient.

        Args:
            iteration: seeds dropout.
            micro_batches: this rank's slices.
            lr: before the layers' multipliers.

        Returns:
            This rank's share of the loss, a scalar on the device: the ranks' sum is the mean over all pictures.
        """
        ...

    def forward(self, batch: Batch) -> torch.Tensor:
        """Returns the logits, float[b, classes], in testing mode and without gradients."""
        ...

    def scalars(self) -> dict[str, float]:
        """Returns the state's scalars alone, having waited for the device where there are any."""
        ...

    def state(self) -> EngineState:
        """Returns the state; its tensors may be the engine's own, so write them before the next step."""
        ...

    def load(self, state: EngineState) -> None:
        """Puts a state back."""
        ...
