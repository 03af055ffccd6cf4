"""Accumulates metrics over batches and ranks: the losses of the last iterations, a test's accuracy and loss."""

import dataclasses
import math
from collections import deque

import torch

from stylefinetune.config.train import LossFunction
from stylefinetune.data.mixing.mix import to_targets
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.world import World
from stylefinetune.losses.loss import sum_losses

NEVER = torch.iinfo(torch.int64).max


@dataclasses.dataclass(frozen=True)
class TestResult:
    """The result of a test over all ranks, without corrupt pictures."""

    __test__ = False  # for pytest

    # Pictures for which only the true class has the highest logit; Caffe counts a tie as wrong. Of a picture with
    # several labels, one of them must have a higher logit than all other classes.
    correct: int
    count: int
    loss: float  # mean of train.loss, without smoothed labels or class weights
    map: float | None = None  # mean average precision, if it was computed

    @property
    def accuracy(self) -> float:
        """The fraction of correct pictures."""
        return self.correct / max(self.count, 1)


class TestAccumulator:
    """Accumulates the batches of a test on one rank; `total` adds the ranks."""

    __test__ = False  # for pytest

    def __init__(self, device: torch.device, function: LossFunction = "softmax") -> None:
        self._function: LossFunction = function
        # float64 makes the order of ranks and batches irrelevant at the printed precision, and counts exact.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor, pairs: torch.Tensor | None = None) -> None:
        """Add b pictures: logits float[b, classes], labels int64[b], CORRUPT_LABEL for a corrupt picture.

        `pairs` is that of the batch.
        """
        counted = labels != CORRUPT_LABEL
        if pairs is None:
            true_logits = logits.gather(1, labels.clamp(min=0)[:, None])
            is_correct = (logits >= true_logits).sum(dim=1) == 1
        else:
            is_label = to_targets(labels, logits.shape[1], pairs) > 0
            best, best_other = (logits.masked_fill(hidden, -math.inf).amax(1) for hidden in (~is_label, is_label))
            is_correct = best > best_other
        correct = is_correct & counted
        losses = sum_losses(logits.double(), labels, self._function, pairs)
        self._sums += torch.stack((correct.sum().double(), counted.sum().double(), losses))

    def total(self, world: World) -> TestResult:
        """Return the sum over all ranks, the same on each rank; collective."""
        correct, count, loss = world.sum(self._sums).tolist()
        return TestResult(correct=round(correct), count=round(count), loss=loss / max(count, 1))


class LossWindow:
    """The last `size` losses; a resumed run adds to `losses`. Each rank keeps its part on its device until `gather`."""

    def __init__(self, size: int, losses: list[float]) -> None:
        self._size = size
        self._gathered = losses[-size:]
        self._pending: deque[torch.Tensor] = deque(maxlen=size)
        self._first_not_finite: torch.Tensor | None = None

    def add(self, loss: torch.Tensor, iteration: int) -> None:
        """Add this rank's loss of an iteration, a scalar; the sum over the ranks is the mean loss of the batch."""
        self._pending.append(loss)
        first = torch.where(loss.isfinite(), NEVER, iteration)  # stays on the device: no synchronization
        self._first_not_finite = first if self._first_not_finite is None else self._first_not_finite.minimum(first)

    def gather(self, world: World) -> list[float]:
        """Return the losses, oldest first; collective, and waits for the device."""
        if self._pending:
            new = world.sum(torch.stack(list(self._pending))).tolist()
            self._gathered = (self._gathered + new)[-self._size :]
            self._pending.clear()
        return self._gathered

    def first_not_finite(self, world: World) -> int | None:
        """Return the first added iteration whose loss is not finite; collective, and waits for the device."""
        local = torch.tensor(NEVER) if self._first_not_finite is None else self._first_not_finite
        first = int(world.min(local).item())
        return None if first == NEVER else first
