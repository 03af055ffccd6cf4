"""Finds pictures whose label is probably wrong, by confident learning."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.format.index import Entries
from stylefinetune.evaluation.predictions import Predictions

_TOLERANCE = 1e-6  # by which a probability may be below a threshold, which is a mean with rounding errors


@dataclasses.dataclass(frozen=True)
class Suspects:
    """The pictures whose label is suspect, those with the lowest margin first."""

    rows: npt.NDArray[np.int64]  # [n], row numbers in the split
    labels: npt.NDArray[np.int64]  # [n]
    suggested: npt.NDArray[np.int64]  # [n], the class to which the picture probably belongs
    label_probability: npt.NDArray[np.float64]  # [n]
    suggested_probability: npt.NDArray[np.float64]  # [n]
    margin: npt.NDArray[np.float64]  # [n], the label's probability minus the highest of another class, from -1 to 0
    classes: list[str]  # names in label order

    def __len__(self) -> int:
        return len(self.rows)


def find_suspects(predictions: Predictions) -> Suspects:
    """Return the suspects among pictures with one label.

    A picture confidently belongs to a class if its probability of the class is at least the mean probability that the
    pictures with this label have. If it confidently belongs to classes, and the most probable of them is not its label,
    then the label is suspect, unless the network predicts the label.

    The network must not have been trained on the pictures: it would have learned wrong labels, and be overconfident.

    Source: Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021). Suspects are off
    the diagonal of its confident joint, as in `find_label_issues(filter_by="confident_learning")` of cleanlab.
    """
    assert predictions.several is None
    probabilities, labels = predictions.probabilities, predictions.labels
    every = np.arange(len(labels))
    own = probabilities[every, labels]
    counts = np.bincount(labels, minlength=len(predictions.classes))
    sums = np.bincount(labels, own, minlength=len(predictions.classes))
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    is_confident = probabilities >= thresholds - _TOLERANCE
    suggested = np.where(is_confident, probabilities, -np.inf).argmax(axis=1)
    is_suspect = is_confident.any(axis=1) & (suggested != labels) & (own < probabilities.max(axis=1))
    others = probabilities.copy()
    others[every, labels] = -np.inf
    margin = own - others.max(axis=1)
    places = np.flatnonzero(is_suspect)
    places = places[np.argsort(margin[places], kind="stable")]
    return Suspects(
        predictions.rows[places],
        labels[places],
        suggested[places],
        own[places],
        probabilities[places, suggested[places]],
        margin[places],
        predictions.classes,
    )


def write_suspects(suspects: Suspects, entries: Entries, path: Path, source: dict[str, str]) -> None:
    """Write one row per suspect: row, key, label, suggested, label_probability, suggested_probability and margin.

    `row` counts the pictures of the split. The names of the classes and `source` are in the metadata of the schema.
    """
    table = pa.table(
        {
            "row": suspects.rows,
            "key": pa.array([entries.key[int(row)] for row in suspects.rows], pa.string()),
            "label": suspects.labels,
            "suggested": suspects.suggested,
            "label_probability": suspects.label_probability,
            "suggested_probability": suspects.suggested_probability,
            "margin": suspects.margin,
        }
    )
    new = path.with_name(f".{path.name}.new")
    pq.write_table(table.replace_schema_metadata(source | {"classes": json.dumps(suspects.classes)}), new)
    new.replace(path)
