"""The pictures of a test set with their predictions, which `evaluate RUN --out` has written."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shards.format import first_line
from shards.format.columns import Lists
from stylefinetune.config.train import LossFunction
from stylefinetune.errors import UserError
from stylefinetune.evaluation.thumbnails import ShownPictures
from stylefinetune.losses.loss import to_probabilities

_FILE = "predictions.parquet"

Shown: TypeAlias = Literal["mistakes", "correct", "all"]

_TOP = 5  # classes of a picture
_PART_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Gallery:
    """N predictions, in the order of the test.

    Attributes:
        source: the checkpoint, the shards and the split.
        classes: names in label order.
    """

    source: dict[str, str]
    classes: list[str]
    _keys: pa.ChunkedArray  # [N]
    _rows: npt.NDArray[np.int64]  # [N], of the split
    _labels: npt.NDArray[np.int32]  # [N, k], the most probable classes
    _probabilities: npt.NDArray[np.float32]  # [N, k]
    _truth: Lists  # the true labels of each picture
    _is_correct: npt.NDArray[np.bool_]  # [N]
    _pictures: ShownPictures

    @classmethod
    def open(cls, folder: Path, loss: LossFunction) -> "Gallery | None":
        """Read the predictions in a folder; None if there are none.

        Args:
            folder: that of `evaluate --out`.
            loss: of the training, by which logits are turned into probabilities.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / _FILE
        if not path.is_file():
            return None
        try:
            with pq.ParquetFile(path) as file:
                return cls._read(file, loss)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{path} can't be read ({first_line(error)}); remove it, and evaluate the run again"
            ) from error

    @classmethod
    def _read(cls, file: pq.ParquetFile, loss: LossFunction) -> "Gallery":
        metadata = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
        classes: list[str] = json.loads(metadata["classes"])
        labels, probabilities = _read_top(file, len(classes), loss)
        truth_column = "label" if "label" in file.schema_arrow.names else "labels"
        table = file.read(["row", "key", truth_column, *(["rank"] if truth_column == "label" else [])])
        rows = table["row"].to_numpy()
        if truth_column == "label":
            truth = Lists(np.arange(len(rows) + 1), table[truth_column].to_numpy())
            is_correct = table["rank"].to_numpy() == 1
        else:
            truth = Lists.join(table[truth_column].chunks)
            is_correct = np.array([labels[at, 0] in truth[at] for at in range(len(truth))], bool)
        source = {name: metadata[name] for name in ("checkpoint", "shards", "split")}
        pictures = ShownPictures(source["shards"], source["split"])
        return cls(source, classes, table["key"], rows, labels, probabilities, truth, is_correct, pictures)

    def __len__(self) -> int:
        return len(self._rows)

    def summarize(self) -> dict[str, Any]:
        """Return what the predictions are of, and how many are correct."""
        correct = int(self._is_correct.sum())
        return self.source | {"pictures": len(self), "correct": correct, "has_pictures": self._pictures.are_there}

    def find(
        self, shown: Shown, true: int | None, predicted: int | None, first: int, count: int, *, least_sure: bool
    ) -> dict[str, Any]:
        """Return some of the pictures that fit, by the probability of their predicted class.

        Args:
            shown: which of them.
            true: a label that they have.
            predicted: their most probable class.
            first: number of pictures to skip.
            count: number of pictures to return.
            least_sure: begin with the lowest probability instead of the highest.
        """
        fits = {"all": np.ones(len(self), bool), "correct": self._is_correct, "mistakes": ~self._is_correct}[shown]
        if predicted is not None:
            fits = fits & (self._labels[:, 0] == predicted)
        if true is not None:
            has_label = np.zeros(len(self), bool)
            has_label[np.repeat(np.arange(len(self)), self._truth.counts)[self._truth.values == true]] = True
            fits = fits & has_label
        places = np.flatnonzero(fits)
        sure = self._probabilities[places, 0]
        order = places[np.argsort(sure if least_sure else -sure, kind="stable")]
        return {"found": len(order), "pictures": [self._describe(int(place)) for place in order[first : first + count]]}

    def picture(self, number: int, side: int) -> bytes:
        """Return picture `number` of the test as a JPEG; empty if it can't be read, or has been replaced."""
        if not 0 <= number < len(self):
            return b""
        return self._pictures.thumbnail(int(self._rows[number]), self._keys[number].as_py(), side)

    def _describe(self, number: int) -> dict[str, Any]:
        pairs = zip(self._labels[number].tolist(), self._probabilities[number].tolist(), strict=True)
        return {
            "number": number,
            "key": self._keys[number].as_py(),
            "true": [self.classes[label] for label in self._truth[number]],
            "correct": bool(self._is_correct[number]),
            "classes": [
                {"class": self.classes[label], "label": label, "probability": round(value, 7)} for label, value in pairs
            ],
        }


def _read_top(
    file: pq.ParquetFile, width: int, loss: LossFunction
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the most probable classes of each picture and their probabilities, a part of the logits at a time."""
    labels = [np.empty((0, min(_TOP, width)), np.int32)]
    probabilities = [np.empty((0, min(_TOP, width)), np.float32)]
    for part in file.iter_batches(_PART_ROWS, columns=["logits"]):
        logits = part.column("logits").flatten().to_numpy().reshape(-1, width)
        values, best = to_probabilities(torch.tensor(logits), loss).topk(min(_TOP, width))
        labels.append(best.numpy().astype(np.int32))
        probabilities.append(values.numpy())
    return np.concatenate(labels), np.concatenate(probabilities)
