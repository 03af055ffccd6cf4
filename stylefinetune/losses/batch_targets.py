"""Completes the batches of training with what the loss needs to know about the whole batch: its mix, its weight."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.mixing.mix import Mixer
from stylefinetune.data.sampler import RankBatchSampler


class BatchTargets:
    """Sets `mix` and `weight` of batches, the same on each rank, without communication between the ranks."""

    def __init__(self, config: Config, pictures: PictureDataset) -> None:
        data, weights = config.data, config.train.class_weights
        assert weights != "balanced"  # see settle_class_weights
        self._pictures = pictures
        self._weights = None if weights is None else np.array(weights)
        self._mixer = None
        if data.is_mixed:
            self._mixer = Mixer(data.mixup, data.cutmix, data.mixup_prob, config.train.seed, pictures.input_size)

    def complete(self, batches: Iterator[Batch], sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return the completed batches of a sampler."""
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
