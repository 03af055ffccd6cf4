"""Classifies pictures by the classes of those with the most similar features."""

import torch
from torch.nn import functional

NEIGHBOURS = 20  # this and the temperature are those of DINO's evaluation
_TEMPERATURE = 0.07
_BLOCK = 4096  # pictures; the similarities of two blocks are in memory at a time


@torch.no_grad()
def knn_scores(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, classes: int, device: torch.device
) -> torch.Tensor:
    """Return the weighted votes of the nearest training pictures for each class, float32[T, classes], on the CPU.

    The similarity of two pictures is the cosine of their features. Each of the NEIGHBOURS nearest pictures votes for
    its class with the weight exp(similarity / 0.07).
    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (2018).

    Args:
        train: features of the training pictures, float32[N, D].
        labels: their classes, int64[N].
        test: features of the pictures to classify, float32[T, D].
        classes: number of classes.
        device: where to compute.
    """
    count = min(NEIGHBOURS, len(train))
    nearest = torch.full((len(test), count), -torch.inf)  # similarities of the nearest pictures so far
    voted = torch.zeros(len(test), count, dtype=torch.int64)  # their classes
    for features, own in zip(train.split(_BLOCK), labels.split(_BLOCK), strict=True):
        keys, key_labels = functional.normalize(features.to(device)), own.to(device)
        for queries, best, best_labels in zip(*(each.split(_BLOCK) for each in (test, nearest, voted)), strict=True):
            similarities = functional.normalize(queries.to(device)) @ keys.T
            candidates = torch.cat((best.to(device), similarities), dim=1)
            both = torch.cat((best_labels.to(device), key_labels.expand(len(queries), -1)), dim=1)
            top, places = candidates.topk(count)
            best.copy_(top)
            best_labels.copy_(both.gather(1, places))
    return torch.zeros(len(test), classes).scatter_add_(1, voted, (nearest / _TEMPERATURE).exp())
