"""Collects the predictions of all ranks, and writes them as a Parquet table."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shards.format.columns import Lists
from stylefinetune.config.train import LossFunction
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.losses.loss import to_probabilities


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The logits of N pictures for C classes, in the order of the test; corrupt pictures are left out."""

    rows: npt.NDArray[np.int64]  # [N], row numbers in the split
    labels: npt.NDArray[np.int64]  # [N]
    logits: npt.NDArray[np.float32]  # [N, C]
    classes: list[str]  # names in label order
    loss: LossFunction = "softmax"  # of the training, by which the logits are turned into probabilities
    several: Lists | None = None  # all labels of each picture; None if each has the one in `labels`

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """The softmax of the logits, or their sigmoid after training with bce, [N, C]."""
        return to_probabilities(torch.from_numpy(self.logits).double(), self.loss).numpy()

    @property
    def rank_of_truth(self) -> npt.NDArray[np.int64]:
        """The place of the true class among the classes by logit, [N]; 1 is a correct prediction.

        Of classes with equal logits the true one is last: Caffe counts a tie as wrong.
        """
        true = np.take_along_axis(self.logits, self.labels[:, None], axis=1)
        return (self.logits >= true).sum(axis=1)

    def first(self, count: int) -> "Predictions":
        """Return the first pictures."""
        several = None if self.several is None else self.several.select(slice(count))
        columns = {name: getattr(self, name)[:count] for name in ("rows", "labels", "logits")}
        return dataclasses.replace(self, **columns, several=several)


def collect_predictions(
    forward: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    pictures: PictureDataset,
    classes: list[str],
    world: World,
    loss: LossFunction = "softmax",
) -> Predictions:
    """Return the predictions for every picture of a split, the same on each rank; collective.

    Args:
        forward: returns the logits of a batch.
        batches: this rank's slices of one pass over `pictures`.
        pictures: the split.
        classes: names in label order.
        world: the ranks.
        loss: of the training.

    Raises:
        UserError: a logit is not finite.
    """
    count = len(pictures.entries)
    logits = torch.zeros(count, len(classes), dtype=torch.float32)
    labels = torch.zeros(count, dtype=torch.int64)
    for batch in batches:
        logits[batch.positions] = forward(batch).float().cpu()
        labels[batch.positions] = batch.labels.cpu()
    # Each picture is in the slice of one rank, and 0 in the tensors of the others.
    logits, labels = world.sum(logits).cpu(), world.sum(labels).cpu()
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise UserError(f"the logits of {broken} of {count} pictures aren't finite; choose an earlier checkpoint")
    rows = np.array([pictures.order.row(position) for position in range(count)], np.int64)
    read = (labels != CORRUPT_LABEL).numpy()
    several = pictures.entries.labels
    if several is not None:
        several = several.take(rows[read])
    return Predictions(rows[read], labels.numpy()[read], logits.numpy()[read], classes, loss, several)


def write_predictions(predictions: Predictions, pictures: PictureDataset, path: Path, source: dict[str, str]) -> None:
    """Write one row per picture: row, key, label, predicted, probability, rank and logits.

    `row` counts the pictures of the split, `probability` is that of the predicted class, `rank` is 1 for a correct
    prediction. With several labels of a picture, the columns are row, key, labels and logits. The names of the classes
    and `source` are in the metadata of the schema.
    """
    keys = pa.array([pictures.entries.key[int(row)] for row in predictions.rows], pa.string())
    columns: dict[str, Any] = {"row": predictions.rows, "key": keys}
    if predictions.several is None:
        probabilities = predictions.probabilities
        columns |= {
            "label": predictions.labels,
            "predicted": probabilities.argmax(axis=1),
            "probability": probabilities.max(axis=1, initial=0),
            "rank": predictions.rank_of_truth,
        }
    else:
        columns["labels"] = predictions.several.to_arrow()
    logits, width = pa.array(predictions.logits.reshape(-1)), predictions.logits.shape[1]
    table = pa.table(columns | {"logits": pa.FixedSizeListArray.from_arrays(logits, width)})
    metadata = source | {"classes": json.dumps(predictions.classes)}
    new = path.with_name(f".{path.name}.new")
    pq.write_table(table.replace_schema_metadata(metadata), new)
    new.replace(path)
