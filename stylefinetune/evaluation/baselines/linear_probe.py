"""Fits a linear classifier of features: multinomial logistic regression with an L2 penalty."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # that are tried; each starts from the weights of the one before
_HELD_OUT = 5  # one of 5 pictures is held out to choose the penalty
_ITERATIONS = 100  # of L-BFGS, for each penalty
_BLOCK = 4096  # pictures whose scores are in memory at a time


class LinearProbe:
    """The classifier; its weights are 0 before the first fit.

    Args:
        dimensions: number of features.
        classes: number of classes.
        device: where to compute; features are copied there a block at a time.
    """

    def __init__(self, dimensions: int, classes: int, device: torch.device) -> None:
        self._weight = torch.zeros(dimensions, classes, device=device, requires_grad=True)
        self._bias = torch.zeros(classes, device=device, requires_grad=True)

    def fit(self, features: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, penalty: float) -> None:
        """Continue from the present weights to those with the lowest mean loss + penalty / 2 * |weights|^2.

        Args:
            features: standardized, float32[N, D].
            labels: int64[N].
            rows: the pictures to fit, int64[n].
            penalty: the factor.
        """
        parameters = [self._weight, self._bias]
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=_ITERATIONS, tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            total = penalty / 2 * self._weight.square().sum()
            total.backward()
            for part in rows.split(_BLOCK):
                targets = labels[part].to(self._bias.device)
                loss = functional.cross_entropy(self._scores(features[part]), targets, reduction="sum") / len(rows)
                loss.backward()
                total = total.detach() + loss.detach()
            return total

        optimizer.step(closure)

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return the scores of the classes, float32[N, classes], on the CPU."""
        return torch.cat([self._scores(part).cpu() for part in features.split(_BLOCK)])

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self._bias, features.to(self._bias.device), self._weight)


def choose_penalty(
    probe: LinearProbe, features: torch.Tensor, labels: torch.Tensor, seed: int, on_fit: Callable[[], object]
) -> float:
    """Return the penalty with the highest accuracy on one in five of the training pictures, drawn by the seed.

    Of penalties with the same accuracy it is the one with the lowest loss on these pictures.

    Args:
        probe: is fitted to the other pictures with each penalty in turn.
        features: of at least two training pictures, standardized, float32[N, D].
        labels: int64[N].
        seed: of the draw.
        on_fit: called after each fit.
    """
    # NumPy guarantees RandomState's stream.
    order = torch.from_numpy(np.random.RandomState(np.random.MT19937(seed)).permutation(len(features)))
    held_out, rest = order.tensor_split([max(1, len(order) // _HELD_OUT)])
    found: list[tuple[float, float, float]] = []
    for penalty in PENALTIES:
        probe.fit(features, labels, rest, penalty)
        scores, targets = probe.scores(features[held_out]), labels[held_out]
        accuracy = (scores.argmax(dim=1) == targets).double().mean()
        found.append((float(accuracy), -float(functional.cross_entropy(scores, targets)), penalty))
        on_fit()
    return max(found)[2]


def standardize_(train: torch.Tensor, test: torch.Tensor) -> None:
    """Change features in place: those of the training pictures get the mean 0 and the standard deviation 1.

    A feature that is the same in all training pictures becomes 0 there.
    """
    deviation, mean = torch.std_mean(train, dim=0, correction=0)
    deviation[deviation == 0] = 1
    for features in (train, test):
        features.sub_(mean).div_(deviation)
