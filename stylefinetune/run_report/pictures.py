"""Makes thumbnails of the pictures that a run classifies wrongly, and of those whose labels are suspect."""

import base64
import dataclasses

import numpy as np
import pyarrow.parquet as pq

from stylefinetune.evaluation.thumbnails import ShownPictures
from stylefinetune.run_report.history import EVALUATION, RunHistory

_WORST = 24  # mistakes with the highest probability
_PER_PAIR, _MOST = 4, 240  # mistakes of a pair of classes, and of all
_SUSPECTS = 48


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A picture that is classified wrongly."""

    key: str
    true: str
    predicted: str
    probability: float  # of the predicted class
    image: str  # a data: URL; empty if the picture can't be read
    is_worst: bool  # whether it is among those with the highest probability


def find_mistakes(run: RunHistory) -> list[Mistake]:
    """Return mistakes of an evaluated run: those with the highest probability, and some of each pair of classes."""
    path = run.folder / EVALUATION / "predictions.parquet"
    if not run.evaluation or not path.is_file() or "confusion" not in run.evaluation:  # several labels have none
        return []
    table = pq.read_table(path, columns=["row", "key", "label", "predicted", "probability", "rank"])
    rows = table.filter(np.asarray(table["rank"]) > 1).sort_by([("probability", "descending")]).to_pylist()
    names = [metrics["name"] for metrics in run.evaluation["by_class"]]
    pictures = ShownPictures(run.evaluation["shards"], run.evaluation["split"])
    mistakes: list[Mistake] = []
    pairs: dict[tuple[int, int], int] = {}
    for place, row in enumerate(rows):
        pair = (row["label"], row["predicted"])
        is_worst = place < _WORST
        if len(mistakes) < _MOST and (is_worst or pairs.get(pair, 0) < _PER_PAIR):
            pairs[pair] = pairs.get(pair, 0) + 1
            image = _data_url(pictures.thumbnail(row["row"], row["key"]))
            mistakes.append(Mistake(row["key"], names[pair[0]], names[pair[1]], row["probability"], image, is_worst))
    return mistakes


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A picture whose label is probably wrong."""

    key: str
    label: str
    label_probability: float
    suggested: str
    suggested_probability: float
    image: str  # as of a mistake


@dataclasses.dataclass(frozen=True)
class SuspectPictures:
    """The most suspect pictures of an evaluated run."""

    count: int  # of all suspects
    shown: list[Suspect]


def find_suspect_pictures(run: RunHistory) -> SuspectPictures | None:
    """Return the suspects of the evaluation; None if they were not looked for."""
    path = run.folder / EVALUATION / "suspects.parquet"
    if not run.evaluation or "suspects" not in run.evaluation or not path.is_file():
        return None
    table = pq.read_table(path)
    names = [metrics["name"] for metrics in run.evaluation["by_class"]]
    pictures = ShownPictures(run.evaluation["shards"], run.evaluation["split"])
    shown = [
        Suspect(
            row["key"],
            names[row["label"]],
            row["label_probability"],
            names[row["suggested"]],
            row["suggested_probability"],
            _data_url(pictures.thumbnail(row["row"], row["key"])),
        )
        for row in table.slice(0, _SUSPECTS).to_pylist()
    ]
    return SuspectPictures(table.num_rows, shown)


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""
