"""Computes top-5 accuracy and the accuracy of each class in the tests of a run, and keeps the predictions of the last.

It watches the logits that a test computes anyway.
"""

from collections.abc import Callable

import numpy as np
import torch

from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.world import World
from stylefinetune.evaluation.predictions import Predictions

MAX_CLASSES = 100  # with more, the accuracy of each class is not logged
_MOST = 2**28  # logits to keep, 1 GiB

Forward = Callable[[Batch], torch.Tensor]


class TestDetails:
    """Counts the right predictions of a test by class; nothing for pictures with several labels.

    Args:
        config: settings of the run.
        pictures: the test set; None if there are no tests.
        classes: names in label order.
        world: the ranks.
    """

    __test__ = False  # for pytest

    def __init__(self, config: Config, pictures: PictureDataset | None, classes: list[str], world: World) -> None:
        self._config, self._classes, self._world = config, classes, world
        self._pictures = None if pictures is None or pictures.entries.labels is not None else pictures
        self._is_last = False
        self._sums = torch.zeros(0)
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # positions, labels, logits

    def start(self, iteration: int) -> None:
        """Forget the last test. The predictions of the next one are kept for W&B if it may be the last of the run."""
        train = self._config.train
        may_be_last = iteration == train.max_iter or train.patience > 0
        self._is_last = may_be_last and self._config.tracking.wandb != "disabled"
        self._sums = torch.zeros(len(self._classes), 3, dtype=torch.float64, device=self._world.device)
        self._kept.clear()

    def watch(self, forward: Forward) -> Forward:
        """Return a function that does the same as `forward`, and counts its predictions."""
        if self._pictures is None:
            return forward

        def watched(batch: Batch) -> torch.Tensor:
            logits = forward(batch)
            self._add(batch, logits)
            return logits

        return watched

    def values(self) -> dict[str, float]:
        """Return top5 and class_accuracy/NAME; empty if they are not computed. Collective; waits for the device."""
        if self._pictures is None:
            return {}
        counts, correct, top5 = self._world.sum(self._sums).cpu().unbind(dim=1)
        values = {"top5": float(top5.sum() / counts.sum().clamp(min=1))} if len(self._classes) > 5 else {}
        if len(self._classes) <= MAX_CLASSES:
            by_class = zip(self._classes, counts.tolist(), correct.tolist(), strict=True)
            values |= {f"class_accuracy/{name}": hits / count for name, count, hits in by_class if count}
        return values

    def predictions(self) -> Predictions | None:
        """Return the predictions of the test, the same on each rank; None if they were not kept. Collective."""
        pictures, classes = self._pictures, len(self._classes)
        if pictures is None or not self._is_last or len(pictures.entries) * classes > _MOST:
            return None
        count = len(pictures.entries)
        logits, labels, times = torch.zeros(count, classes), torch.zeros(count, dtype=torch.int64), torch.zeros(count)
        for positions, own_labels, own_logits in self._kept:
            places = positions % count  # a test of train.test_iter batches continues at the start of the list
            logits[places], labels[places], times[places] = own_logits, own_labels, 1.0
        logits, labels, times = (self._world.sum(tensor).cpu() for tensor in (logits, labels, times))
        read = (times > 0).numpy() & logits.isfinite().all(dim=1).numpy()
        divisor = times.clamp(min=1)  # of a picture that several ranks have read
        rows = np.array([pictures.order.row(position) for position in range(count)], np.int64)
        logits, labels = logits / divisor[:, None], labels // divisor.long()
        return Predictions(
            rows[read], labels.numpy()[read], logits.numpy()[read], self._classes, self._config.train.loss
        )

    def _add(self, batch: Batch, logits: torch.Tensor) -> None:
        labels = batch.labels.to(logits.device)
        is_read = labels != CORRUPT_LABEL
        labels = labels.clamp(min=0)
        ranks = (logits >= logits.gather(1, labels[:, None])).sum(dim=1)  # Caffe counts a tie as wrong
        counts = torch.stack((is_read, (ranks == 1) & is_read, (ranks <= 5) & is_read), dim=1)
        self._sums.index_add_(0, labels, counts.to(self._sums))
        if self._is_last:
            kept = is_read.cpu()
            self._kept.append((batch.positions.cpu()[kept], labels.cpu()[kept], logits.float().cpu()[kept]))
