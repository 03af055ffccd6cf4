"""Compares runs of the micro net, and pictures, with the original Caffe; yields a Row for each comparison."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from benchmarks.caffe_results import WEIGHTS, Array, MicroResults, digest, mean_picture, read_pictures
from shards.format.order import RankBatchSampler
from stylefinetune import train
from stylefinetune.checkpoint import checkpoint
from stylefinetune.config.data import DataConfig, TestDataConfig
from stylefinetune.data.dataset import Batch, PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.mean import load_mean
from stylefinetune.data.transforms import Transform
from stylefinetune.models import build
from stylefinetune.models.weights import load_weights
from stylefinetune.optim.caffe_sgd import MOMENTUM

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
TOLERANCE = 1e-5
# At this iteration of scratch, two outputs of conv1 in one pooling window, both 81.2, differ by 4e-7, a twentieth of
# the distance between neighbouring float32 numbers there. Which of them is the maximum, and gets the gradient, depends
# on the order of sums: on the processor, the threads and the slices of the batch. With exact sums, it is the same as in
# Caffe.
TIE = 34


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what is compared.
        ranks: number of ranks of the run.
        difference: largest difference.
        tolerance: largest allowed difference.
        of_tie: the run decided the tie otherwise than Caffe; further rows compare it with an exact run that did so too.
    """

    what: str
    ranks: int
    difference: float
    tolerance: float = TOLERANCE
    of_tie: bool = False

    @property
    def verdict(self) -> str:
        """Returns "holds", "tie" or "FAILS"; a difference that is NaN fails."""
        if self.difference <= self.tolerance:
            return "holds"
        return "tie" if self.of_tie else "FAILS"

    @property
    def holds(self) -> bool:
        """Whether the comparison does not fail."""
        return self.verdict != "FAILS"

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return f"{self.what}, {ranks}: {self.difference:.1e} of {self.tolerance:.0e}"


def run_solver(golden: Path, kind: str, ranks: int, run_dir: Path, *flags: str, precision: str = "float32") -> None:
    """Run one of Caffe's solver files in the folder of Caffe's files: in this process on 1 rank, else under torchrun.

    Args:
        golden: folder of Caffe's results.
        kind: solver: "scratch", "finetune" or "itersize2".
        ranks: number of processes.
        run_dir: run directory, absolute.
        flags: further flags, which override the solver's values.
        precision: "float32", the normal one, or "float64".

    Raises:
        RuntimeError: it failed under torchrun; the message has the end of its output.
        UserError: it failed in this process.
    """
    resumed = any(flag.startswith("--resume=") for flag in flags)
    start = () if resumed else (f"--weights={WEIGHTS[kind]}",)
    fixed = [f"--run_dir={run_dir}", "--tracking.wandb=disabled", "--data.workers=0"]
    arguments = [f"--solver=solver_{kind}.prototxt", *start, *fixed, *flags]
    if ranks == 1 and precision == "float32":
        with contextlib.chdir(golden / "micro"), contextlib.redirect_stderr(io.StringIO()):
            train.main(arguments)
        return
    module = "stylefinetune.train" if precision == "float32" else "benchmarks.in_float64"
    code, errors = run_on_ranks(ranks, module, arguments, golden / "micro")
    if code:
        raise RuntimeError(f"{kind} on {ranks} ranks in {precision} failed:\n{errors[-2000:]}")


def run_on_ranks(ranks: int, module: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run a module in a folder under torchrun, and return the exit code and what is on standard error."""
    launcher = ["torch.distributed.run", f"--nproc_per_node={ranks}", "--rdzv_backend=c10d"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "--rdzv_endpoint=127.0.0.1:0", "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def compare_run(
    run_dir: Path, truth: MicroResults, what: str, ranks: int, turned: MicroResults | None = None
) -> Iterator[Row]:
    """Compare losses, tests and checkpoints of a run with Caffe's.

    If Caffe has the weights of an iteration and the run does not, the difference is infinite.

    Args:
        run_dir: run directory; the run may begin after iteration 0 or end before 60.
        truth: Caffe's results.
        what: beginning of each row's name.
        ranks: number of ranks of the run.
        turned: result of `run_turned`, for a run that meets TIE: after it, the run must agree with Caffe or with this.
    """
    # The loss of iteration n is computed before its update; a test and a checkpoint of n, after n updates.
    if turned is None:
        yield from _compare_span(run_dir, truth, range(61), what, ranks)
        return
    yield from _compare_span(run_dir, truth, range(TIE + 1), what, ranks)
    after = list(_compare_span(run_dir, truth, range(TIE + 1, 61), f"{what} after its tie", ranks))
    if all(row.holds for row in after):
        yield from after
        return
    yield from (dataclasses.replace(row, of_tie=True) for row in after)
    yield from _compare_span(run_dir, turned, range(TIE + 1, 61), f"{what} against the tie turned", ranks)


def _compare_span(run_dir: Path, truth: MicroResults, span: range, what: str, ranks: int) -> Iterator[Row]:
    def row(kind: str, at: list[int], difference: float) -> Row:
        named = ", ".join(map(str, at)) if len(at) < 10 else f"{at[0]} to {at[-1]}"
        return Row(f"{what}: {kind} at {named}", ranks, difference)

    losses = {int(entry["iteration"]): entry["loss"] for entry in metrics(run_dir, "train")}
    losses = {at: loss for at, loss in losses.items() if at in span}
    yield row("losses", list(losses), largest(list(losses.values()), truth.losses[list(losses)]))
    tests = {int(entry["iteration"]): (entry["accuracy"], entry["loss"]) for entry in metrics(run_dir, "test")}
    tests = {at: test for at, test in tests.items() if at in span and at in truth.tests}
    for column, kind in enumerate(("test accuracies", "test losses")):
        ours, theirs = ([results[at][column] for at in tests] for results in (tests, truth.tests))
        yield row(kind, list(tests), largest(ours, theirs))
    saved = {int(path.name.removeprefix("iter_")): path for path in (run_dir / "checkpoints").iterdir()}
    for kind, known, file, prefix in (
        ("weights", truth.weights, checkpoint.MODEL_FILE, ""),
        ("momenta", truth.momenta, checkpoint.OPTIMIZER_FILE, f"{MOMENTUM}/"),
    ):
        passed = [at for at in known if at in span and at - 1 in losses]
        missing = [at for at in passed if at not in saved]
        differences = [largest_of(load_file(saved[at] / file), known[at], prefix) for at in passed if at in saved]
        if passed:
            yield row(kind, passed, np.inf if missing else max(differences))


def run_turned(golden: Path, truth: MicroResults, run_dir: Path) -> MicroResults:
    """Run scratch with exact sums and the other decision at TIE, and return its results.

    Args:
        golden: folder of Caffe's results.
        truth: Caffe's results of scratch; those returned are of the same iterations.
        run_dir: run directory, absolute.
    """
    run_solver(golden, "scratch", 1, run_dir, "--checkpoint.snapshot=1", f"--turn_tie={TIE}", precision="float64")
    saved = {at: run_dir / "checkpoints" / f"iter_{at}" for at in truth.weights}
    slots = {at: load_file(saved[at] / checkpoint.OPTIMIZER_FILE) for at in truth.momenta}
    return dataclasses.replace(
        truth,
        losses=np.array([entry["loss"] for entry in metrics(run_dir, "train")]),
        tests={int(test["iteration"]): (test["accuracy"], test["loss"]) for test in metrics(run_dir, "test")},
        weights={at: load_file(folder / checkpoint.MODEL_FILE) for at, folder in saved.items()},
        momenta={
            at: {name.removeprefix(f"{MOMENTUM}/"): slot for name, slot in named.items()} for at, named in slots.items()
        },
    )


def metrics(run_dir: Path, phase: str) -> list[dict[str, float]]:
    """Return the metrics of a run for one phase, "train" or "test"."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["phase"] == phase]


def largest(ours: object, theirs: object) -> float:
    """Return the largest absolute difference of two arrays; infinite if their shapes differ or they are empty."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape and ours.size else float("inf")


def relative(ours: object, theirs: object) -> float:
    """Return the largest difference divided by the largest value."""
    return largest(ours, theirs) / float(np.abs(np.asarray(theirs)).max())


def largest_of(ours: Mapping[str, Array], theirs: Mapping[str, Array], prefix: str = "") -> float:
    """Return the largest difference of all named arrays; infinite if the names, without our prefix, differ."""
    if {name.removeprefix(prefix) for name in ours} != set(theirs):
        return float("inf")
    return max(largest(ours[prefix + name], value) for name, value in theirs.items())


def compare_small_batches(golden: Path, work: Path) -> Iterator[Row]:
    """Compare batches of 2 on 3 ranks, one of which has an empty slice, with the same on 1 rank."""
    logged: list[list[float]] = []
    for ranks in (1, 3):
        run_dir = work / f"small_{ranks}"
        run_solver(golden, "finetune", ranks, run_dir, "--data.batch_size=2")
        logged.append([entry["loss"] for phase in ("train", "test") for entry in metrics(run_dir, phase)])
    alone, together = (
        load_file(work / f"small_{ranks}" / "checkpoints" / "iter_60" / checkpoint.MODEL_FILE) for ranks in (1, 3)
    )
    yield Row("finetune in batches of 2: losses, against 1 rank's", 3, largest(*logged))
    yield Row("finetune in batches of 2: weights at 60, against 1 rank's", 3, largest_of(alone, together))


def compare_resumed(golden: Path, truth: MicroResults, work: Path, turned: MicroResults) -> Iterator[Row]:
    """Compare a run that resumes from Caffe's solver state of iteration 20 with Caffe's own run of scratch."""
    run_dir = work / "resumed"
    run_solver(golden, "scratch", 1, run_dir, "--resume=scratch/micro_iter_20.solverstate")
    yield from compare_run(run_dir, truth, "scratch from the solverstate of 20", 1, turned)


def compare_first_iteration(golden: Path, kind: str, truth: MicroResults, run_dir: Path) -> Iterator[Row]:
    """Compare the micro net's input, activations and first update, relative to the largest value of each blob.

    Args:
        golden: folder of Caffe's results.
        kind: "scratch" or "finetune".
        truth: Caffe's results.
        run_dir: directory of a run of that solver that has a checkpoint of iteration 1.
    """
    first = checkpoint.read_checkpoint(run_dir / "checkpoints" / "iter_1")
    data = first.config.data
    phase = data.phase(training=True)
    pictures = PictureDataset(open_split(open_index(data), phase.split), phase, first.progress.seed)
    slices = RankBatchSampler(0, 60 * phase.batch_size, phase.batch_size, rank=0, world_size=1)
    batches = list(load_batches(pictures, slices, 0, CPU))
    transform = Transform(first.means[0], phase.scale, CPU)
    inputs = [transform(batch.pictures, batch.crops) for batch in batches]
    sums = [batch.numpy().astype(np.float64).sum() for batch in inputs]
    yield Row(f"{kind}: sums of the input of 60 batches", 1, largest(sums, truth.inputs), 0.0)

    net = build.build_model(first.config.model, len(first.progress.classes), [pictures.input_size], seed=0)
    load_weights(net, str(golden / "micro" / WEIGHTS[kind]), lambda _: None)
    blobs = activations(net.eval(), inputs[0])
    blobs["data"], last = inputs[0].numpy(), torch.from_numpy(blobs[first.config.model.last_layer])
    blobs["label"] = batches[0].labels.numpy()
    blobs["loss"] = functional.cross_entropy(last, batches[0].labels).numpy()
    # Caffe's ReLU works in place: its output has the name of its input blob.
    blobs |= {name.replace("relu", "conv" if name < "relu6" else "fc"): blobs[name] for name in blobs if "relu" in name}
    theirs = truth.activations
    worst = max(relative(blobs[name][: len(blob)] if blob.ndim else blobs[name], blob) for name, blob in theirs.items())
    yield Row(f"{kind}: {len(theirs)} blobs of iteration 0, relative", 1, worst)
    updates = first.slots[MOMENTUM]
    worst = max(relative(updates[name].numpy(), update) for name, update in truth.momenta[1].items())
    yield Row(f"{kind}: the first update, relative", 1, worst)


@torch.no_grad()
def activations(net: nn.Module, blob: torch.Tensor) -> dict[str, Array]:
    """Return the output of each layer of the net by name."""
    found: dict[str, Array] = {}
    for name, layer in net.named_children():
        blob = layer(blob)
        found[name] = blob.clone().numpy()  # copied, because the next layer may work in place
    return found


def compare_pictures(golden: Path, work: Path, form: str) -> Iterator[Row]:
    """Compare pictures that were packed into shards and read as for a test with Caffe's, bitwise.

    Args:
        golden: folder of Caffe's results.
        work: folder for the shards.
        form: encode_format of the shards: "original", resized when read, or "pixels", resized before.
    """
    shards = work / form
    size = ["--image_size=256"] if form == "pixels" else []
    flags = ["--list=test=list.txt", f"--out={shards}", f"--encode_format={form}", *size]
    command = [sys.executable, "-m", "shards", "assemble", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=golden / "preproc", env=environment, capture_output=True, check=True)
    np.save(work / "mean256.npy", mean_picture().transpose(1, 2, 0)[:, :, ::-1])
    config = DataConfig(shards=str(shards), mean_file=str(work / "mean256.npy"), test=TestDataConfig(split="test"))
    phase = config.phase(training=False)
    pictures = PictureDataset(open_split(open_index(config), phase.split), phase, seed=0)
    batch = _read_all(pictures)
    inputs = Transform(load_mean(config, phase, pictures.size), phase.scale, CPU)(batch.pictures, batch.crops)
    resized = batch.pictures.flip(-1).permute(0, 3, 1, 2)
    for what, ours, theirs in zip(
        ("decoded and resized", "as the input of the net"), (resized, inputs), read_pictures(golden), strict=True
    ):
        differing = sum(digest(array.numpy()) != caffes for array, caffes in zip(ours, theirs, strict=True))
        yield Row(f"{len(theirs)} pictures from shards of {form}, {what}: how many differ", 1, differing, 0.0)


def _read_all(pictures: PictureDataset) -> Batch:
    count = len(pictures.entries)
    return next(load_batches(pictures, RankBatchSampler(0, count, count, rank=0, world_size=1), 0, CPU))
