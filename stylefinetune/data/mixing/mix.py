"""Mixes each picture of a batch with the picture before it: MixUp and CutMix, as in torchvision.transforms.v2.

The partner of a batch's first picture is its last one. All pictures of a batch are mixed in the same way, which is
drawn from the seed and the number of the batch. So a rank needs only one picture more than its slice has, and the
result does not depend on the number of ranks.

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); Yun et al., "CutMix: Regularization Strategy
to Train Strong Classifiers with Localizable Features" (2019).
"""

import dataclasses
import math

import numpy as np
import torch
from torch.nn import functional

from stylefinetune.data.sampler import CORRUPT_LABEL

_STREAM = 0x6D6978  # keeps the draws apart from others that are seeded with a seed and a number


@dataclasses.dataclass(frozen=True)
class Mix:
    """How all pictures of a batch are mixed with their partners."""

    share: float  # of the picture's own label; the partner's label has the rest
    box: tuple[int, int, int, int] | None = None  # top, left, bottom, right of CutMix's rectangle; None is MixUp


@dataclasses.dataclass(frozen=True)
class Mixer:
    """Draws how the batches of a run are mixed; the settings are those of the config's section `data`."""

    mixup: float
    cutmix: float
    mixup_prob: float
    seed: int
    size: tuple[int, int]  # (height, width) of the network's input

    def draw(self, number: int) -> Mix:
        """Return how batch `number` of the run is mixed."""
        # NumPy guarantees RandomState's stream; a Generator's may change between releases.
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, number, _STREAM])))
        is_mixed, which = random.random_sample(2)
        if is_mixed >= self.mixup_prob:
            return Mix(share=1.0)
        if self.cutmix > 0 and (self.mixup == 0 or which < 0.5):
            return self._draw_box(random)
        return Mix(share=float(random.beta(self.mixup, self.mixup)))

    def _draw_box(self, random: np.random.RandomState) -> Mix:
        share, place = random.beta(self.cutmix, self.cutmix), random.random_sample(2)
        return cut_mix(share, (int(place[0] * self.size[0]), int(place[1] * self.size[1])), self.size)


def cut_mix(share: float, centre: tuple[int, int], size: tuple[int, int]) -> Mix:
    """Return CutMix with a rectangle of 1 - share of the (height, width) around a centre, which is cut at the edges."""
    half = 0.5 * math.sqrt(1.0 - share)
    halves = [int(half * side) for side in size]
    top, left = (max(place - part, 0) for place, part in zip(centre, halves, strict=True))
    bottom, right = (min(place + part, side) for place, part, side in zip(centre, halves, size, strict=True))
    area = (bottom - top) * (right - left) / (size[0] * size[1])
    return Mix(share=1.0 - area, box=(top, left, bottom, right))


def mix_pictures(pictures: torch.Tensor, labels: torch.Tensor, mix: Mix | None) -> torch.Tensor:
    """Return float[b, 3, H, W], mixed from float[b + 1, 3, H, W], of which the first is only a partner.

    A picture is not mixed if it or its partner is corrupt. Without a mix the pictures are returned unchanged.
    """
    if mix is None:
        return pictures
    own, partner = pictures[1:], pictures[:-1]
    mixed = _are_mixed(labels).to(pictures.device)[:, None, None, None]
    if mix.box is None:
        own_share, other_share = torch.where(mixed, mix.share, 1.0), torch.where(mixed, 1.0 - mix.share, 0.0)
        return (partner * other_share).add_(own * own_share)
    top, left, bottom, right = mix.box
    box = (..., slice(top, bottom), slice(left, right))
    result = own.clone()
    result[box] = torch.where(mixed, partner[box], own[box])
    return result


def mix_labels(labels: torch.Tensor, classes: int, mix: Mix, pairs: torch.Tensor | None = None) -> torch.Tensor:
    """Return the target of each mixed picture, float32[b, classes], from int64[b + 1]; 0 for a corrupt picture.

    `pairs` is that of the batch.
    """
    targets = to_targets(labels, classes, pairs)
    mixed = _are_mixed(labels)[:, None]
    own_share, other_share = torch.where(mixed, mix.share, 1.0), torch.where(mixed, 1.0 - mix.share, 0.0)
    return (targets[:-1] * other_share).add_(targets[1:] * own_share)


def to_targets(labels: torch.Tensor, classes: int, pairs: torch.Tensor | None = None) -> torch.Tensor:
    """Return float32[b, classes]: 1 for each label, or for each of the batch's `pairs`; 0 for a corrupt picture."""
    if pairs is None:
        targets = functional.one_hot(labels.clamp(min=0), classes).float()
    else:
        targets = torch.zeros(len(labels), classes, device=labels.device)
        targets[pairs[0], pairs[1]] = 1.0
    return targets * (labels != CORRUPT_LABEL)[:, None]


def _are_mixed(labels: torch.Tensor) -> torch.Tensor:
    """Return which of the b pictures are mixed: those that are, like their partner, not corrupt; bool[b]."""
    valid = labels != CORRUPT_LABEL
    return valid[1:] & valid[:-1]
