"""The learning rate of an iteration, by Caffe's policies."""

import bisect
import math

from stylefinetune.config.schema import OptimConfig


def learning_rate(optim: OptimConfig, iteration: int, max_iter: int) -> float:
    """Returns the rate that iteration `iteration` (from 0, counted before its update) trains with.

    Policies, as Caffe's SGDSolver::GetLearningRate names them: fixed; step: base_lr * gamma ^ floor(iteration /
    stepsize); multistep: gamma ^ (how many of stepvalue are reached); exp: gamma ^ iteration; inv:
    (1 + gamma * iteration) ^ -power; poly: (1 - iteration / max_iter) ^ power; sigmoid:
    1 / (1 + exp(-gamma * (iteration - stepsize))).

    With warmup_iter, the first so many iterations have (iteration + 1) / warmup_iter of that, as in Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), but from 0 instead of the small batch's rate. The policy counts from
    iteration 0 all the same, so that its drops stay where they are.
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
