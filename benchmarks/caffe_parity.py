"""Holds the trainer against the original Caffe's results, in one table: `python -m benchmarks.caffe_parity GOLDEN`.

GOLDEN is a folder of Caffe's own results, such as ../shared/golden. Exits with 1 where a difference is over its
tolerance.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from shards.images import inspect, resize
from stylefinetune import models
from stylefinetune.caffe_files import read_mean
from stylefinetune.config import LayerRule, ModelConfig, OptimConfig
from stylefinetune.optimizer import MOMENTUM, CaffeSGD, param_groups
from stylefinetune.prototxt import read_net
from stylefinetune.transforms import Crops, Transform
from stylefinetune.weights import load_weights

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5
# Of each rank, torchrun's default. The number changes the order of sums, and so the last digit. At iteration 34 of
# scratch, two outputs of conv1 in one pooling window differ by no more than that; the other one winning moves the
# losses by 3e-4.
THREADS = 1
WEIGHTS_AT = (1, 2, 5, 10, 20, 40, 60)
MOMENTA_AT = (20, 40, 60)
# Run -> its solver, the weights it starts from, the run whose results it must have.
RUNS = {
    "finetune": ("solver_finetune.prototxt", "finetune/micro_ft_iter_0.caffemodel", "finetune"),
    "scratch": ("solver_scratch.prototxt", "scratch/micro_iter_0.caffemodel", "scratch"),
    "itersize2": ("solver_itersize2.prototxt", "scratch/micro_iter_0.caffemodel", "scratch"),
}
CAFFENET = ModelConfig(dropout=0.0)


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what is compared.
        ranks: on how many ranks it was computed.
        difference: the largest.
        tolerance: what it may be.
    """

    what: str
    ranks: int
    difference: float
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Tells whether the difference, which must be a number, is within its tolerance."""
        return self.difference <= self.tolerance


def caffes_name(ours: str) -> str:
    """Returns the golden files' name of a parameter: conv1.0 of conv1.weight."""
    layer, _, blob = ours.rpartition(".")
    return f"{layer}.{('weight', 'bias').index(blob)}"


def compare_run(run_dir: Path, truth: Any, what: str, ranks: int) -> Iterator[Row]:  # noqa: ANN401 -- an npz file
    """Compares a run of the micro net with Caffe's: losses, tests, and the checkpoints at WEIGHTS_AT."""
    entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = np.array([entry["loss"] for entry in entries if entry["phase"] == "train"])
    tests = [entry for entry in entries if entry["phase"] == "test"]
    yield Row(f"{what}: {len(truth['train_loss'])} losses", ranks, largest(losses, truth["train_loss"]))
    assert [test["iteration"] for test in tests] == truth["test_iters"].tolist()
    accuracies = np.array([test["accuracy"] for test in tests])
    yield Row(f"{what}: test accuracies", ranks, largest(accuracies, truth["test_acc"]), 1e-6)
    yield Row(f"{what}: test losses", ranks, largest(np.array([test["loss"] for test in tests]), truth["test_loss"]))
    weights, momenta = 0.0, 0.0
    for iteration in WEIGHTS_AT:
        folder = run_dir / "checkpoints" / f"iter_{iteration}"
        for name, value in load_file(folder / "model.safetensors").items():
            weights = max(weights, largest(value, truth[f"w{iteration}/{caffes_name(name)}"]))
        if iteration in MOMENTA_AT:
            for key, value in load_file(folder / "optimizer.safetensors").items():
                name = caffes_name(key.removeprefix(f"{MOMENTUM}/"))
                momenta = max(momenta, largest(value, truth[f"h{iteration}/{name}"]))
    yield Row(f"{what}: weights at {', '.join(map(str, WEIGHTS_AT))}", ranks, weights)
    yield Row(f"{what}: momenta at {', '.join(map(str, MOMENTA_AT))}", ranks, momenta)


def largest(ours: Any, theirs: Any) -> float:  # noqa: ANN401 -- arrays
    """Returns the largest absolute difference; infinite where the shapes differ."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


def train(work: Path, run_dir: Path, solver: str, ranks: int, *flags: str) -> None:
    """Trains as a user would, in the folder of Caffe's files, with checkpoints after every iteration."""
    fixed = ["--tracking.wandb=disabled", "--data.workers=0", "--checkpoint.snapshot=1", f"--run_dir={run_dir}"]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--rdzv_backend=c10d"]
    command = [sys.executable, *launcher, "--rdzv_endpoint=127.0.0.1:0", "-m", "stylefinetune.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, f"--solver={solver}", *fixed, *flags],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{solver} on {ranks} ranks failed:\n{done.stderr[-2000:]}")


def micro_runs(golden: Path, work: Path, ranks: Iterable[int]) -> Iterator[Row]:
    """Runs Caffe's three solvers as they are."""
    for name, (solver, weights, results) in RUNS.items():
        truth = np.load(golden / "micro" / results / f"golden_{results}.npz")
        for size in ranks:
            run_dir = work / f"{name}_{size}"
            train(work, run_dir, solver, size, f"--weights={weights}")
            yield from compare_run(run_dir, truth, name, size)


def small_batches(work: Path) -> Iterator[Row]:
    """Runs batches of 2 on 3 ranks, of which one has nothing, against 1 rank."""
    losses: list[list[float]] = []
    for size in (1, 3):
        run_dir = work / f"small_{size}"
        solver, weights, _ = RUNS["finetune"]
        train(work, run_dir, solver, size, f"--weights={weights}", "--data.batch_size=2")
        entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        losses.append([entry["loss"] for entry in entries])
    yield Row("finetune, batch of 2: losses against 1 rank's", 3, largest(losses[0], losses[1]))


def resumed_run(golden: Path, work: Path) -> Iterator[Row]:
    """Goes on from Caffe's own solver state of iteration 20, and keeps its place in the data."""
    run_dir = work / "resumed"
    train(work, run_dir, "solver_scratch.prototxt", 1, "--resume=scratch/micro_iter_20.solverstate")
    truth = np.load(golden / "micro" / "scratch" / "golden_scratch.npz")
    model = load_file(run_dir / "checkpoints" / "iter_60" / "model.safetensors")
    worst = max(largest(value, truth[f"w60/{caffes_name(name)}"]) for name, value in model.items())
    yield Row("solverstate of 20: weights at 60", 1, worst)


def first_iteration(golden: Path) -> Iterator[Row]:
    """Compares the activations of iteration 0 and the first update, layer by layer."""
    for kind, prefix, lr in (("finetune", "micro_ft", 0.001), ("scratch", "micro", 0.005)):
        truth = np.load(golden / "micro" / kind / f"golden_{kind}.npz")
        net = micro_net(golden, golden / "micro" / kind / f"{prefix}_iter_0.caffemodel")
        optim = OptimConfig(base_lr=lr)
        optimizer = CaffeSGD(param_groups(net, optim.layers), optim)
        blob, worst = torch.from_numpy(truth["act0/data"]), 0.0
        followers = list(net.named_children())[1:]
        for (name, layer), (following, _) in zip(net.named_children(), [*followers, ("", net)], strict=True):
            blob = layer(blob)
            # Caffe's ReLU works in place: what it calls conv1 is after relu1.
            caffes = name.replace("relu", "conv" if int(name[-1]) < 6 else "fc") if name.startswith("relu") else name
            if f"act0/{caffes}" in truth.files and not following.startswith("relu"):
                worst = max(worst, relative(blob.detach().numpy(), truth[f"act0/{caffes}"]))
        yield Row(f"{kind}: activations of iteration 0, relative", 1, worst)
        before = {name: value.detach().clone() for name, value in net.named_parameters()}
        functional.cross_entropy(blob, torch.from_numpy(truth["act0/label"]).long()).backward()
        optimizer.step()
        updates = {name: before[name] - value.detach() for name, value in net.named_parameters()}
        worst = max(largest(update.numpy(), truth[f"upd0/{caffes_name(name)}"]) for name, update in updates.items())
        yield Row(f"{kind}: the first update", 1, worst)


def micro_net(golden: Path, weights: Path) -> nn.Module:
    """Returns the micro net of train_val.prototxt with the weights of a caffemodel."""
    keys = read_net(golden / "micro" / "train_val.prototxt").keys["model"]
    net = models.build(ModelConfig(**{**keys, "widths": tuple(keys["widths"])}), 20, [(80, 80)], seed=0)
    load_weights(net, str(weights), lambda _: None)
    return net.train()


def random_caffenet(last_layer: str, classes: int) -> nn.Module:
    """Returns the full-size net with the weights that the golden folder's README describes."""
    model = dataclasses.replace(CAFFENET, last_layer=last_layer)
    net = models.build(model, classes, [(227, 227)], seed=0)
    layers = [(name, layer) for name, layer in net.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for place, (name, layer) in enumerate(layers):
        rs = np.random.RandomState(1000 + place)
        shape = tuple(layer.weight.shape)
        std = np.sqrt(2 / np.prod(shape[1:])) / (64 if name == "conv1" else 1)
        weight = (rs.standard_normal(shape) * std).astype(np.float32)
        bias = (rs.standard_normal(shape[0]) * 0.1).astype(np.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    return net


def full_size(golden: Path) -> Iterator[Row]:
    """Compares the full-size CaffeNet: forward pass, gradients, three steps; relative to each blob's largest value."""
    truth = np.load(golden / "caffenet" / "deploy_forward.npz")
    pictures = np.random.RandomState(99).uniform(-120, 130, (2, 3, 227, 227)).astype(np.float32)
    with torch.no_grad():
        logits = random_caffenet("fc8", 1000).eval()(torch.from_numpy(pictures)).numpy()
    yield Row("CaffeNet: forward, relative", 1, relative(logits, truth["fc8_full"].reshape(2, 1000)))

    truth = np.load(golden / "caffenet" / "train_steps.npz")
    net = random_caffenet("fc8_flickr", 20).train()
    optim = OptimConfig(layers=(LayerRule("fc8_*", 10.0),))
    optimizer = CaffeSGD(param_groups(net, optim.layers), optim)
    pictures = np.random.RandomState(98).uniform(-120, 130, (4, 3, 227, 227)).astype(np.float32)
    labels = torch.tensor([3, 17, 0, 8])
    losses: list[float] = []
    worst = {"grad": 0.0, "w": 0.0, "V": 0.0}
    for step, lr in enumerate((1e-4, 1e-5, 1e-6), start=1):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(torch.from_numpy(pictures)), labels)
        loss.backward()
        losses.append(loss.item())
        for group in optimizer.param_groups:
            group["lr"] = lr
        if step == 1:
            for name, value in net.named_parameters():
                worst["grad"] = max(worst["grad"], sampled(value.grad, truth, f"grad_{caffes_name(name)}"))
        optimizer.step()
        for name, value in net.named_parameters():
            worst["w"] = max(worst["w"], sampled(value, truth, f"w{step}_{caffes_name(name)}"))
            velocity = optimizer.state[value][MOMENTUM]
            worst["V"] = max(worst["V"], sampled(velocity, truth, f"V{step}_{caffes_name(name)}"))
    yield Row("CaffeNet: losses of three steps, relative", 1, relative(losses, truth["step_losses"]))
    yield Row("CaffeNet: gradients, relative", 1, worst["grad"])
    yield Row("CaffeNet: weights of three steps, relative", 1, worst["w"])
    yield Row("CaffeNet: momenta of three steps, relative", 1, worst["V"])


def relative(ours: Any, theirs: Any) -> float:  # noqa: ANN401 -- arrays
    """Returns the largest difference over the largest value."""
    return largest(ours, theirs) / float(np.abs(theirs).max())


def sampled(tensor: Any, truth: Any, name: str) -> float:  # noqa: ANN401 -- a tensor, an npz file
    """Compares the values of a blob that the golden file holds, relative to the blob's largest."""
    flat = tensor.detach().numpy().ravel()
    scale = float(truth[f"{name}/stats"][2])
    first, stride = truth[f"{name}/first100"], truth[f"{name}/stride"]
    every = flat[:: max(1, flat.size // 500)][:500]
    return max(largest(flat[: len(first)], first), largest(every, stride)) / scale


def preprocessing(golden: Path) -> Iterator[Row]:
    """Decodes, resizes and transforms the golden pictures; they must be Caffe's to the bit."""
    folder = golden / "preproc"
    truth = np.load(folder / "preproc_golden.npz")
    mean = torch.from_numpy(read_mean(folder / "mean256.binaryproto").copy()).permute(1, 2, 0).flip(-1)
    transform = Transform(mean, 1.0, torch.device("cpu"))
    resized, data = 0.0, 0.0
    for place, line in enumerate((folder / "list.txt").read_text().splitlines()):
        path = folder / line.rsplit(" ", 1)[0]
        pixels = resize(inspect(path.read_bytes()).pixels, 256)
        resized = max(resized, largest(pixels[:, :, ::-1].transpose(2, 0, 1), truth["resized_bgr_u8"][place]))
        centre = torch.tensor([14])
        crops = Crops(centre, centre, torch.tensor([False]), (227, 227))
        net_input = transform(torch.from_numpy(pixels)[None], crops)[0].numpy()
        if place < len(truth["data_first3"]):
            data = max(data, largest(net_input, truth["data_first3"][place]))
    count = len(truth["resized_bgr_u8"])
    yield Row(f"{count} pictures, decoded and resized: bitwise", 1, resized, 0.0)
    yield Row("3 pictures as the net's input: bitwise", 1, data, 0.0)


def all_rows(golden: Path, work: Path) -> Iterator[Row]:
    """Yields every comparison."""
    yield from preprocessing(golden)
    yield from first_iteration(golden)
    yield from full_size(golden)
    yield from micro_runs(golden, work, (1, 2, 3))
    yield from small_batches(work)
    yield from resumed_run(golden, work)


def main(arguments: list[str]) -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.caffe_parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("golden", type=Path, nargs="?", default=ROOT.parent / "shared" / "golden")
    golden = parser.parse_args(arguments).golden.resolve()
    if not (golden / "micro").is_dir():
        parser.error(f"{golden} holds none of Caffe's results")
    table = Table("what", "ranks", "largest difference", "tolerance", "", box=None, pad_edge=False)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "micro"
        shutil.copytree(golden / "micro", work)
        rows = list(all_rows(golden, work))
    for row in rows:
        verdict = "holds" if row.holds else "FAILS"
        table.add_row(row.what, str(row.ranks), f"{row.difference:.1e}", f"{row.tolerance:.0e}", verdict)
    Console(width=110).print(table)
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
