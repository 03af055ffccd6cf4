"""Computes the loss of one rank's slice of a batch, such that the sum over the ranks is PyTorch's loss of the batch."""

import torch
from torch import nn
from torch.nn import functional

from stylefinetune.config.train import LossFunction, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.mixing.mix import mix_labels, to_targets
from stylefinetune.data.sampler import CORRUPT_LABEL


def head_weights(net: nn.Module) -> tuple[float, ...]:
    """Return the weights of the losses of a network's classifiers: of one, except in some of Caffe's nets."""
    return getattr(net, "loss_weights", (1.0,))


class Loss:
    """The training loss that `train` selects; its class weights are numbers, see resolve_class_weights."""

    def __init__(self, train: TrainConfig, device: torch.device, head_weights: tuple[float, ...] = (1.0,)) -> None:
        assert train.class_weights != "balanced"
        self._function = train.loss
        self._head_weights = head_weights
        self._smoothing = train.label_smoothing
        weights = train.class_weights
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)

    def __call__(self, logits: torch.Tensor, batch: Batch, iter_size: int) -> torch.Tensor:
        """Return this rank's part of the loss of one of `iter_size` micro-batches, for logits float[b, classes].

        Logits float[b, heads, classes] are those of a network with auxiliary classifiers, each of which has a loss.

        The loss is summed over the slice, and divided by what the mean over the whole batch is divided by. So every
        picture has the same weight even if slices differ in size or are empty. A corrupt picture has no loss, but
        counts as a picture of the batch.
        """
        if logits.ndim == 3:
            heads = zip(self._head_weights, logits.unbind(dim=1), strict=True)
            return torch.stack([weight * self(head, batch, iter_size) for weight, head in heads]).sum()
        labels = batch.labels.to(logits.device, non_blocking=True)
        if batch.mix is None and self._function == "softmax":
            loss = functional.cross_entropy(
                logits,
                labels,
                self._weights,
                reduction="sum",
                ignore_index=CORRUPT_LABEL,
                label_smoothing=self._smoothing,
            )
            return loss / ((batch.size if batch.weight is None else batch.weight) * iter_size)
        each = self._of_targets(logits, labels, batch)
        own = labels if batch.mix is None else labels[1:]
        return (each * (own != CORRUPT_LABEL)).sum() / (batch.size * iter_size)

    def _of_targets(self, logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of each picture, float[b], whose target is a number for each class."""
        classes = logits.shape[1]
        pairs = None if batch.pairs is None else batch.pairs.to(logits.device, non_blocking=True)
        if batch.mix is None:
            targets = to_targets(labels, classes, pairs)
        else:
            targets = mix_labels(labels, classes, batch.mix, pairs)
        if self._function == "softmax":
            return functional.cross_entropy(
                logits, targets, self._weights, reduction="none", label_smoothing=self._smoothing
            )
        smoothed = targets * (1.0 - self._smoothing) + self._smoothing / classes
        return functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").mean(dim=1)


def sum_losses(
    logits: torch.Tensor, labels: torch.Tensor, function: LossFunction, pairs: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sum of the losses of pictures, a scalar, with neither class weights nor smoothed or mixed labels.

    A corrupt picture has no loss. `pairs` is that of the batch; with it, the function is bce.
    """
    if function == "softmax":
        return functional.cross_entropy(logits, labels, reduction="sum", ignore_index=CORRUPT_LABEL)
    targets = to_targets(labels, logits.shape[1], pairs).to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    return (each * (labels != CORRUPT_LABEL)).sum()


def to_probabilities(logits: torch.Tensor, function: LossFunction) -> torch.Tensor:
    """Return the probabilities that a network trained with this loss gives the classes, of the shape of the logits."""
    return logits.softmax(dim=1) if function == "softmax" else logits.sigmoid()
