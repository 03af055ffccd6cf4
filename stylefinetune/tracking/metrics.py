"""What a run reports: the mean loss of the last iterations, and a test's accuracy and loss."""

import dataclasses
from collections import deque

import torch
from torch.nn import functional

from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.world import World

NEVER = torch.iinfo(torch.int64).max


@dataclasses.dataclass(frozen=True)
class TestResult:
    """A test over all ranks.

    Attributes:
        correct: pictures whose own class alone has the highest logit; Caffe counts a tie as wrong.
        count: pictures tested.
        loss: mean softmax cross-entropy.

    A picture that is corrupt isn't counted.
    """

    __test__ = False  # not a test of pytest's

    correct: int
    count: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Returns the share of correct pictures."""
        return self.correct / max(self.count, 1)


class TestAccumulator:
    """Adds up a test's batches on one rank; `total` adds the ranks."""

    __test__ = False  # not a test of pytest's

    def __init__(self, device: torch.device) -> None:
        # float64, so that the order in which ranks and batches are added doesn't show; counts are exact in it.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds b pictures: logits float[b, classes], labels int64[b], CORRUPT_LABEL where there is no picture."""
        counted = labels != CORRUPT_LABEL
        own = logits.gather(1, labels.clamp(min=0)[:, None])
        correct = ((logits >= own).sum(dim=1) == 1) & counted
        losses = functional.cross_entropy(logits.double(), labels, reduction="sum", ignore_index=CORRUPT_LABEL)
        self._sums += torch.stack((correct.sum().double(), counted.sum().double(), losses))

    def total(self, world: World) -> TestResult:
        """Returns the sum over all ranks, the same on each."""
        correct, count, loss = world.sum(self._sums).tolist()
        return TestResult(correct=round(correct), count=round(count), loss=loss / max(count, 1))


class LossWindow:
    """The losses of the last iterations; each rank holds its share on its device until somebody asks.

    Args:
        size: how many are kept.
        losses: those of a run that is resumed, oldest first.
    """

    def __init__(self, size: int, losses: list[float]) -> None:
        self._size = size
        self._known = losses[-size:]
        self._shares: deque[torch.Tensor] = deque(maxlen=size)
        self._first: torch.Tensor | None = None

    def add(self, share: torch.Tensor, iteration: int) -> None:
        """Adds an iteration: this rank's share (a scalar), which the ranks' sum makes the batch's mean loss."""
        self._shares.append(share)
        first = torch.where(share.isfinite(), NEVER, iteration)  # on the device, which nobody waits for here
        self._first = first if self._first is None else torch.minimum(self._first, first)

    def gather(self, world: World) -> list[float]:
        """Returns the losses, oldest first; collective, and the one place that waits for the device."""
        if self._shares:
            fresh = world.sum(torch.stack(list(self._shares))).tolist()
            self._known = (self._known + fresh)[-self._size :]
            self._shares.clear()
        return self._known

    def first_not_finite(self, world: World) -> int | None:
        """Returns the first iteration whose loss wasn't finite, of all that were added; collective, waits likewise."""
        mine = torch.tensor(NEVER) if self._first is None else self._first
        first = int(world.min(mine).item())
        return None if first == NEVER else first
