"""Reads results of the original Caffe from a golden folder: the complete one, or the compact copy in tests/golden."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stylefinetune.caffe.files import read_caffemodel, read_solverstate

Array = npt.NDArray[Any]
Named = dict[str, Array]

# For each run of the micro net: the prefix of Caffe's files, and its initial weights.
PREFIXES = {"scratch": "micro", "finetune": "micro_ft", "itersize2": "micro_is2"}
WEIGHTS = {
    "scratch": "scratch/micro_iter_0.caffemodel",
    "finetune": "finetune/micro_ft_iter_0.caffemodel",
    "itersize2": "scratch/micro_iter_0.caffemodel",
}
MEAN_LEVELS = (104.007, 116.669, 122.679)  # BGR
CUT = slice(14, 14 + 227)  # the centre of 256


@dataclasses.dataclass(frozen=True)
class MicroResults:
    """Caffe's results of 60 iterations of the micro net; parameters have our names, such as conv1.weight.

    Attributes:
        losses: float[60], the loss of each iteration before its update.
        tests: iteration -> (accuracy, loss).
        weights: number of updates -> weights and biases.
        momenta: number of updates -> momenta.
        inputs: float64[60], the sum of each batch's input to the net.
        activations: blobs of iteration 0 for the first pictures of the batch, after in-place layers.
    """

    losses: Array
    tests: dict[int, tuple[float, float]]
    weights: dict[int, Named]
    momenta: dict[int, Named]
    inputs: Array
    activations: Named


def read_micro(golden: Path, kind: str) -> MicroResults:
    """Read the results of "scratch", "finetune" or "itersize2"."""
    folder = golden / "micro" / kind
    if kind == "itersize2":
        return _read_itersize2(folder, read_micro(golden, "scratch"))
    truth = np.load(folder / f"golden_{kind}.npz")
    named: dict[str, Named] = {}
    for key in truth.files:
        group, _, name = key.partition("/")
        if name:
            named.setdefault(group, {})[_our_name(name) if group[0] in "whu" else name] = truth[key]
    before = _parameters(golden / "micro" / WEIGHTS[kind])
    momenta = {1: named["upd0"]} | {at: named[f"h{at}"] for at in (20, 40, 60)}
    after = {name: before[name] - update for name, update in named["upd0"].items()}
    return MicroResults(
        losses=truth["train_loss"],
        tests={
            int(iteration): (accuracy, loss)
            for iteration, accuracy, loss in zip(
                truth["test_iters"], truth["test_acc"], truth["test_loss"], strict=True
            )
        },
        weights={1: after} | {at: named[f"w{at}"] for at in (2, 5, 10, 20, 40, 60)},
        momenta=momenta,
        inputs=truth["data_sum"],
        activations=named["act0"],
    )


def _read_itersize2(folder: Path, scratch: MicroResults) -> MicroResults:
    """Read its losses, tests and final state; the rest equals that of scratch, as two batches of 5 equal one of 10."""
    log = (folder / "train.log").read_text(encoding="utf-8")
    losses = re.findall(r"Iteration \d+ \([^)]*\), loss = (\S+)", log)
    tested = re.findall(
        r"Iteration (\d+), Testing net.*?accuracy = (\S+).*?Test net output #1: loss = (\S+)", log, re.DOTALL
    )
    end = folder / f"{PREFIXES['itersize2']}_iter_60"
    weights = _parameters(end.with_suffix(".caffemodel"))
    momenta = dict(zip(weights, read_solverstate(end.with_suffix(".solverstate")).momenta, strict=True))
    return dataclasses.replace(
        scratch,
        losses=np.array(losses, np.float64),
        tests={int(iteration): (float(accuracy), float(loss)) for iteration, accuracy, loss in tested},
        weights=scratch.weights | {60: weights},
        momenta=scratch.momenta | {60: momenta},
    )


def _parameters(caffemodel: Path) -> Named:
    layers = read_caffemodel(caffemodel)
    return {_our_name(f"{layer}.{place}"): blob for layer, blobs in layers.items() for place, blob in enumerate(blobs)}


def _our_name(name: str) -> str:
    layer, _, place = name.rpartition(".")
    return f"{layer}.{('weight', 'bias')[int(place)]}"


def mean_picture() -> npt.NDArray[np.float32]:
    """Return the mean picture of preproc, float32[3, 256, 256], BGR, bitwise.

    It was generated with this formula, so the compact copy needs no mean256.binaryproto.
    """
    y, x = np.mgrid[:256, :256].astype(np.float64)
    hills = 12 * np.cos((x - 128) / 90) * np.cos((y - 118) / 100) + 4 * np.sin((x + 2 * y) / 37)
    return np.stack([level + hills for level in MEAN_LEVELS]).astype(np.float32)


def read_pictures(golden: Path) -> tuple[list[str], list[str]]:
    """Return the sha256 of each picture of preproc/list.txt: resized, uint8[3, 256, 256], and as input of the net.

    The input is float32[3, 227, 227]; both are BGR.
    """
    folder = golden / "preproc"
    truth = np.load(folder / "preproc_golden.npz")
    names = truth["names"].tolist()
    listed = [Path(line.rsplit(" ", 1)[0]).name for line in (folder / "list.txt").read_text().splitlines()]
    rows = [names.index(name) for name in listed]
    if "resized_sha256" in truth.files:
        return truth["resized_sha256"][rows].tolist(), truth["data_sha256"][rows].tolist()
    resized = truth["resized_bgr_u8"][rows]
    inputs = [(picture - mean_picture())[:, CUT, CUT] for picture in resized]
    assert all(np.array_equal(inputs[rows.index(row)], data) for row, data in enumerate(truth["data_first3"]))
    return [digest(picture) for picture in resized], [digest(data) for data in inputs]


def digest(array: Array) -> str:
    """Return the sha256 of an array's values in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
