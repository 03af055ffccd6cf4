"""Averages the predictions for several crops of each picture (test-time augmentation)."""

import dataclasses
from collections.abc import Callable

import torch

from stylefinetune.config.train import LossFunction
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops
from stylefinetune.losses.loss import to_probabilities

_TINY = 1e-300  # in place of probabilities of 0, which have no logarithm
_NEAR = 1e-15  # distance of probabilities from 0 and 1, which have no logit


def average_views(
    forward: Callable[[Batch], torch.Tensor],
    batch: Batch,
    *,
    crops: int,
    mirror: bool,
    loss: LossFunction = "softmax",
) -> torch.Tensor:
    """Return the logits of the mean probabilities over the views of each picture, float[b, classes].

    With 10 crops the views are the corners and the centre, each also mirrored, as in Caffe's classify.py; with 1 crop
    the centre, and if `mirror` its mirror image.
    """
    places = _corners_and_centre(batch) if crops == 10 else [(batch.crops.top, batch.crops.left)]
    flips = (False, True) if mirror or crops == 10 else (False,)
    views = [
        forward(dataclasses.replace(batch, crops=Crops(top, left, torch.full_like(batch.crops.mirror, flip), size)))
        for flip in flips
        for top, left in places
        for size in [batch.crops.size]
    ]
    mean = torch.stack([to_probabilities(view.double(), loss) for view in views]).mean(dim=0)
    return mean.clamp_min(_TINY).log() if loss == "softmax" else mean.logit(_NEAR)


def _corners_and_centre(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the first rows and first columns of the five crops."""
    _, height, width, _ = batch.pictures.shape
    bottom, right = height - batch.crops.size[0], width - batch.crops.size[1]
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [tuple(torch.full_like(batch.crops.top, start) for start in place) for place in places]  # pyright: ignore[reportReturnType] -- of two elements
