"""Completes batches with what the loss needs to know: several labels of a picture, the mix and weight of a batch."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.mixing.mix import Mixer


class BatchTargets:
    """Sets `pairs`, `mix` and `weight` of batches for training, without communication between the ranks."""

    def __init__(self, config: Config, pictures: PictureDataset) -> None:
        data, weights = config.data, config.train.class_weights
        assert weights != "balanced"  # see resolve_class_weights
        self._pictures = pictures
        self._weights = None if weights is None else np.array(weights)
        self._mixer = None
        if data.is_mixed:
            self._mixer = Mixer(data.mixup, data.cutmix, data.mixup_prob, config.train.seed, pictures.input_size)

    def complete(self, batches: Iterator[Batch], sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return the completed batches of a sampler."""
        batches = add_pairs(batches, self._pictures)
        if self._mixer is None and self._weights is None:
            return batches
        first = range(sampler.start, sampler.stop, sampler.batch_size)
        return map(self._complete, batches, first)  # keeps no batch, whose memory is used again

    def _complete(self, batch: Batch, first: int) -> Batch:
        """Complete the batch whose first picture, on any rank, is at position `first`."""
        mix = self._mixer.draw(first // batch.size) if self._mixer else None
        return dataclasses.replace(batch, mix=mix, weight=self._weight_of(range(first, first + batch.size)))

    def _weight_of(self, positions: range) -> float | None:
        if self._weights is None:
            return None
        rows = self._pictures.order.rows_at(positions)
        return float(self._weights[self._pictures.entries.label[rows]].sum()) or 1.0  # the loss is 0 if all are


def add_pairs(batches: Iterator[Batch], pictures: PictureDataset) -> Iterator[Batch]:
    """Return batches of these pictures with `pairs`, if the pictures have several labels."""
    labels = pictures.entries.labels
    if labels is None:
        return batches

    def complete(batch: Batch) -> Batch:
        found = labels.take(pictures.order.rows_at(batch.positions.numpy()))
        rows = np.repeat(np.arange(len(found)), found.counts)
        pairs = torch.from_numpy(np.stack([rows, found.values]).astype(np.int64))
        return dataclasses.replace(batch, pairs=pairs.to(batch.labels.device, non_blocking=True))

    return map(complete, batches)  # keeps no batch, as above
