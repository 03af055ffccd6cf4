"""Computes average precisions: exactly, from the predictions for all pictures of a test, on any number of ranks."""

import math

import torch

from stylefinetune.config.train import LossFunction
from stylefinetune.distributed.world import World
from stylefinetune.losses.loss import to_probabilities

_BLOCK = 2**22  # probabilities of pictures for some of the classes that the ranks exchange at a time
_EQUAL = 1e-6  # largest difference of log-odds that may be float32's rounding, which depends on the ranks' slices


def average_precisions(probabilities: torch.Tensor, is_label: torch.Tensor) -> list[float]:
    """Return the average precision of each class, NaN for a class without pictures.

    It is the mean, over the pictures of the class, of the precision among the pictures that have at least the picture's
    probability. The order of pictures with equal probabilities makes no difference. Two neighbours in the order of
    probabilities are equal if their log-odds, log(p / (1 - p)), differ by 1e-6 at most.

    Args:
        probabilities: float64[N, classes].
        is_label: bool[N, classes].
    """
    columns = zip(probabilities.unbind(dim=1), is_label.unbind(dim=1), strict=True)
    return [_average_precision(scores, hits) if hits.any() else math.nan for scores, hits in columns]


def _average_precision(probabilities: torch.Tensor, is_label: torch.Tensor) -> float:
    # The import takes a second, and few commands need it.
    from torchmetrics.functional.classification import binary_average_precision  # noqa: PLC0415

    ordered, order = torch.logit(probabilities).sort()
    places = torch.zeros_like(ordered)
    places[order[1:]] = (ordered.diff() > _EQUAL).cumsum(dim=0, dtype=places.dtype) / len(places)
    return float(binary_average_precision(places, is_label.long(), validate_args=False))


class MeanAveragePrecision:
    """Collects the predictions of a test on each rank; `total` computes from those of all ranks."""

    def __init__(self, function: LossFunction) -> None:
        self._function: LossFunction = function
        self._logits: list[torch.Tensor] = []
        self._is_label: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, is_label: torch.Tensor) -> None:
        """Add b pictures, which are not corrupt: logits float[b, classes], is_label bool[b, classes]."""
        self._logits.append(logits.float().cpu())
        self._is_label.append(is_label.cpu())

    def total(self, world: World) -> float:
        """Return the mean over the classes that have pictures, the same on each rank; collective.

        NaN if no class has pictures, or if a prediction is not finite.
        """
        probabilities = to_probabilities(torch.cat(self._logits).double(), self._function)
        is_label = torch.cat(self._is_label)
        counts = torch.zeros(world.size, dtype=torch.int64)
        counts[world.rank] = len(probabilities)
        ends = world.sum(counts).cumsum(0).tolist()
        own = slice(ends[world.rank] - len(probabilities), ends[world.rank])  # this rank's pictures among all
        areas: list[float] = []
        for columns in torch.arange(probabilities.shape[1]).split(max(1, _BLOCK // max(ends[-1], 1))):
            both = torch.zeros(2, ends[-1], len(columns), dtype=torch.float64)
            both[0, own], both[1, own] = probabilities[:, columns], is_label[:, columns].double()
            scores, hits = world.sum(both).cpu()
            if not scores.isfinite().all():
                return math.nan
            areas += average_precisions(scores, hits > 0)
        present = [area for area in areas if not math.isnan(area)]
        return sum(present) / len(present) if present else math.nan
