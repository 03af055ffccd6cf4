"""Compares the engines: `python -m benchmarks.engines [--ranks 2] [--batch_size 50] [--iterations 5]`.

Trains the full-size CaffeNet on random noise with PyTorch and with DeepSpeed's stages 0 to 3, in turn, `--rounds`
times. Prints a table of: the seconds to create the engine, including imports, and the seconds per iteration (medians
over the rounds); the peak memory of a rank (resident on CPUs, allocated on GPUs); and the seconds to gather and write a
checkpoint, and its size.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from stylefinetune.checkpoint import checkpoint
from stylefinetune.checkpoint.checkpoint import Progress
from stylefinetune.config.data import DataConfig
from stylefinetune.config.deepspeed import DeepSpeedConfig
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import build_engine
from stylefinetune.models.build import build_model

ROOT = Path(__file__).resolve().parent.parent
CLASSES, SIDE = 20, 227
ENGINES = ("torch", "0", "1", "2", "3")
WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Measured:
    """The worst values over the ranks; seconds and bytes, as in the module's docstring."""

    start: float
    iteration: float
    memory: int
    save: float
    size: int


def slice_of(world: World, size: int) -> Batch:
    """Return this rank's slice of a batch of random noise."""
    count = size * (world.rank + 1) // world.size - size * world.rank // world.size
    generator = torch.Generator().manual_seed(world.rank)
    pictures = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    corner = torch.zeros(count, dtype=torch.int64)
    crops = Crops(corner, corner, torch.zeros(count, dtype=torch.bool), (SIDE, SIDE))
    return Batch(pictures, labels, crops, torch.arange(count), size)


def measure(config: Config, iterations: int) -> None:
    """Train on this rank under torchrun, and write the measurements into the run directory."""
    world = World.join()
    net = build_model(config.model, CLASSES, [(SIDE, SIDE)], seed=0)
    transform = Transform(torch.full((1, 1, 3), 110.0), 1.0, world.device)
    began = time.monotonic()
    engine = build_engine(config, net, (transform, transform), world, (SIDE, SIDE))
    start = time.monotonic() - began
    batch, seconds = slice_of(world, config.data.batch_size), list[float]()
    for iteration in range(WARM_UP + iterations):
        began = time.monotonic()
        share = engine.train_step(iteration, [batch], 0.001)
        world.sum(share).item()  # waits for the device and all ranks
        seconds.append(time.monotonic() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if world.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(world.device)
    began = time.monotonic()
    state = engine.state()
    size = 0
    if world.is_main:
        names = [str(label) for label in range(CLASSES)]
        progress = Progress(iterations, [], [], 0, names, "", [SIDE, SIDE], [SIDE, SIDE])
        mean = torch.zeros(3, 1, 1)
        path = checkpoint.save_checkpoint(Path(config.run_dir), progress, state, config, (mean, mean))
        size = sum(file.stat().st_size for file in path.iterdir())
    world.sum(torch.zeros(1))  # waits for all ranks
    save = time.monotonic() - began
    highest = [-value for value in world.min(-torch.tensor([start, float(memory), save], dtype=torch.float64)).tolist()]
    if world.is_main:
        measured = Measured(highest[0], statistics.median(seconds[WARM_UP:]), int(highest[1]), highest[2], size)
        (Path(config.run_dir) / "measured.json").write_text(json.dumps(dataclasses.asdict(measured)))
    world.shutdown()


def launch(engine: str, options: argparse.Namespace) -> Measured:
    """Measure one engine in separate processes."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["torch.distributed.run", f"--nproc_per_node={options.ranks}", "--rdzv_backend=c10d"]
        launcher += ["--rdzv_endpoint=127.0.0.1:0", "-m", "benchmarks.engines", f"--batch_size={options.batch_size}"]
        flags = [f"--iterations={options.iterations}", f"--one={engine}", f"--folder={folder}"]
        done = subprocess.run(
            [sys.executable, "-m", *launcher, *flags],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{engine} failed:\n{done.stderr[-2000:]}")
        return Measured(**json.loads((Path(folder) / "measured.json").read_text(encoding="utf-8")))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        config = Config(run_dir=options.folder, data=DataConfig(batch_size=options.batch_size))
        if options.one != "torch":
            stage = DeepSpeedConfig(zero_stage=int(options.one))  # pyright: ignore[reportArgumentType] -- of ENGINES
            config = dataclasses.replace(config, engine="deepspeed", deepspeed=stage)
        measure(config, options.iterations)
        return
    measured: dict[str, list[Measured]] = {engine: [] for engine in ENGINES}
    for _ in range(options.rounds):
        for engine, found in measured.items():
            found.append(launch(engine, options))
    print(f"{options.ranks} ranks, batch {options.batch_size}, {options.rounds} rounds of {options.iterations}\n")
    print("| engine | s to create | s per iteration | GB per rank | s to save | MB saved |\n|---|---|---|---|---|---|")
    for engine, found in measured.items():
        name = "torch" if engine == "torch" else f"deepspeed, stage {engine}"
        start, iteration, save = (
            statistics.median(getattr(each, field) for each in found) for field in ("start", "iteration", "save")
        )
        memory, size = max(each.memory for each in found), found[0].size
        print(f"| {name} | {start:.1f} | {iteration:.2f} | {memory / 1e9:.2f} | {save:.1f} | {size / 1e6:.0f} |")


if __name__ == "__main__":
    main()
