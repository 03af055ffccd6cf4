"""Learning rate schedules: Caffe's policies and a linear warm-up."""

import bisect
import math

from stylefinetune.config.schema import OptimConfig


def learning_rate(optim: OptimConfig, iteration: int, max_iter: int) -> float:
    """Return the learning rate of an iteration, counted from 0.

    Policies of Caffe's SGDSolver::GetLearningRate: fixed; step: base_lr * gamma ^ floor(iteration /
    stepsize); multistep: gamma ^ (number of stepvalues <= iteration); exp: gamma ^ iteration; inv:
    (1 + gamma * iteration) ^ -power; poly: (1 - iteration / max_iter) ^ power; sigmoid:
    1 / (1 + exp(-gamma * (iteration - stepsize))).

    In the first warmup_iter iterations the rate is multiplied by (iteration + 1) / warmup_iter, as in Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), but starting from 0 instead of the small batch's rate. The policy still
    counts from iteration 0, so the warm-up does not delay its drops.
    """
    match optim.lr_policy:
        case "fixed":
            factor = 1.0
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
            factor = 1 / (1 + math.exp(-optim.gamma * (iteration - optim.stepsize)))
    if iteration < optim.warmup_iter:
        factor *= (iteration + 1) / optim.warmup_iter
    return optim.base_lr * factor
