"""Learning rate schedules: Caffe's policies, linear, cosine and one-cycle, and a linear warm-up."""

import bisect
import math

from stylefinetune.config.optim import OptimConfig

# one_cycle, with the defaults of PyTorch's OneCycleLR
_RISING_SHARE = 0.3  # share of the iterations in which the rate rises
_FIRST_FACTOR = 1 / 25  # of the highest rate
_LAST_FACTOR = _FIRST_FACTOR / 10_000

_LARGEST_EXPONENT = 700.0  # above 709, math.exp raises an error; the factor of sigmoid is already below 1e-304


def learning_rate(optim: OptimConfig, iteration: int, max_iter: int) -> float:
    """Return the learning rate of an iteration, counted from 0.

    Besides Caffe's policies there are linear: 1 - iteration / max_iter; cosine: (1 + cos(pi * iteration / max_iter)) /
    2, from Loshchilov and Hutter, "SGDR" (2017); one_cycle: a rise to base_lr and a fall to almost 0, from Smith and
    Topin, "Super-Convergence" (2018), with the values of PyTorch's OneCycleLR but a constant momentum.

    In the first warmup_iter iterations the rate is multiplied by (iteration + 1) / warmup_iter, as in Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), but starting from 0 instead of the small batch's rate. The policy still
    counts from iteration 0, so the warm-up does not delay its drops.
    """
    match optim.lr_policy:
        case "linear":
            factor = 1 - iteration / max_iter
        case "cosine":
            factor = _cosine(1.0, 0.0, iteration / max_iter)
        case "one_cycle":
            factor = _one_cycle(iteration, max_iter)
        case _:
            factor = _caffe_factor(optim, iteration, max_iter)
    if iteration < optim.warmup_iter:
        factor *= (iteration + 1) / optim.warmup_iter
    return optim.base_lr * factor


def _caffe_factor(optim: OptimConfig, iteration: int, max_iter: int) -> float:
    """Return the factor of base_lr by a policy of Caffe's SGDSolver::GetLearningRate.

    fixed; step: gamma ^ floor(iteration / stepsize); multistep: gamma ^ (number of stepvalues <= iteration); exp: gamma
    ^ iteration; inv: (1 + gamma * iteration) ^ -power; poly: (1 - iteration / max_iter) ^ power; sigmoid: 1 / (1 +
    exp(-gamma * (iteration - stepsize))).
    """
    match optim.lr_policy:
        case "step":
            factor = optim.gamma ** (iteration // optim.stepsize)
        case "multistep":
            factor = optim.gamma ** bisect.bisect_right(optim.stepvalue, iteration)
        case "exp":
            factor = optim.gamma**iteration
        case "inv":
            factor = (1 + optim.gamma * iteration) ** -optim.power
        case "poly":
            factor = (1 - iteration / max_iter) ** optim.power
        case "sigmoid":
            exponent = -optim.gamma * (iteration - optim.stepsize)
            factor = 1 / (1 + math.exp(min(exponent, _LARGEST_EXPONENT)))
        case _:
            assert optim.lr_policy == "fixed"
            factor = 1.0
    return factor


def _one_cycle(iteration: int, max_iter: int) -> float:
    peak, last = _RISING_SHARE * max_iter - 1, max_iter - 1
    if iteration <= peak:
        return _cosine(_FIRST_FACTOR, 1.0, iteration / peak)
    return _cosine(1.0, _LAST_FACTOR, (iteration - peak) / (last - peak))


def _cosine(first: float, last: float, progress: float) -> float:
    """Return the value at `progress`, from 0 to 1, on half a cosine wave from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
