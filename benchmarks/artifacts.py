"""Measures what checkpoints as W&B artifacts take: `python -m benchmarks.artifacts [--rounds 3] [--megabytes 455]`.

Sends checkpoints of random bytes, of the size of CaffeNet's, to the tests' W&B server on this machine, in turn with
saving each: what a run does anyway. Prints medians for a checkpoint: the milliseconds that its links take, the seconds
until it is sent, and the processor seconds of the training process and of W&B's. And the milliseconds that a run
without artifacts needs after each checkpoint, to list 20 of them.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import torch

from benchmarks.caffe_checks import ROOT
from stylefinetune.checkpoint.checkpoint import Progress, save_checkpoint
from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.engines.engine import EngineState
from stylefinetune.tracking.dashboards import wandb_run
from stylefinetune.tracking.run_facts import RunFacts, SavedCheckpoint
from stylefinetune.training.run import saved_checkpoints

LISTED = 20
MEANS = (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))
# Prints its account, and ends with its standard input.
SERVER = """
import json, sys
from tests.wandb_server import WandbServer
with WandbServer() as server:
    print(json.dumps(server.account), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def serve() -> Generator[dict[str, str]]:
    """Run the server of the tests and return the environment of its user."""
    command = (sys.executable, "-c", SERVER)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.stdin.close()


def facts(size: int) -> RunFacts:
    """Return the facts of a run whose checkpoints have `size` bytes."""
    return RunFacts(
        train_pictures=1,
        test_pictures=1,
        classes=(),
        parameters=1,
        trained_parameters=1,
        ranks=1,
        device="cpu",
        index="",
        outcomes={},
        flops=None,
        peak_flops=None,
        checkpoint_bytes=size,
        index_file=None,
    )


def save(config: Config, iteration: int, size: int) -> Path:
    """Save a checkpoint with `size` bytes of weights and optimizer."""
    half = torch.randint(0, 256, (size // 2,), dtype=torch.uint8)
    progress = Progress(iteration, [1.0], [], 1, ["a"], "f00d", [48, 48], [43, 43])
    state = EngineState({"weight": half}, {}, {"momentum_buffer": {"weight": half}})
    return save_checkpoint(Path(config.run_dir), progress, state, config, MEANS)


def of_wandb() -> float:
    """Return the processor seconds of W&B's processes."""
    return sum(sum(process.cpu_times()[:2]) for process in psutil.Process().children(recursive=True))


def send(config: Config, rounds: int, size: int) -> list[dict[str, float]]:
    """Save and send checkpoints in turn; return the figures of each."""
    figures: list[dict[str, float]] = []
    run = wandb_run.WandbRun(config, facts(size), 0, [], logging.getLogger("benchmark"))
    for iteration in range(1, rounds + 1):
        cpu, began = time.process_time(), time.monotonic()
        path = save(config, iteration, size)
        saving, seconds = time.process_time() - cpu, time.monotonic() - began
        others, cpu, began = of_wandb(), time.process_time(), time.monotonic()
        following = SavedCheckpoint(path.with_name("iter_999"), 999, {}, is_best=False)  # it sends the one before
        run.note_checkpoints([SavedCheckpoint(path, iteration, {}, is_best=False), following])
        linked = time.monotonic() - began
        assert run._background.wait(300)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 -- to know when it is sent
        sent = time.monotonic() - began
        own = time.process_time() - cpu
        figures.append(
            {
                "saving: s": seconds,
                "saving: processor s": saving,
                "links: ms": linked * 1000,
                "until sent: s": sent,
                "training process: processor s": own,
                "W&B: processor s": of_wandb() - others,
            }
        )
    run.finish(failed=True)
    return figures


def listing_milliseconds(config: Config) -> float:
    """Return the time to list checkpoints after one is saved, without artifacts."""
    for iteration in range(LISTED):
        save(config, iteration, 1000)
    began = time.monotonic()
    saved_checkpoints(config)
    return (time.monotonic() - began) * 1000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.artifacts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="checkpoints")
    parser.add_argument("--megabytes", type=int, default=455, help="of a checkpoint")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve() as account:
        os.environ |= account | {"WANDB_CACHE_DIR": folder, "WANDB_CONFIG_DIR": folder, "NETRC": f"{folder}/netrc"}
        config = Config(run_dir=f"{folder}/run", tracking=TrackingConfig(artifacts="all"))
        Path(config.run_dir).mkdir()
        figures = send(config, options.rounds, options.megabytes * 1_000_000)
        print("| | median |\n|---|---|")
        for name in figures[0]:
            print(f"| {name} | {statistics.median(one[name] for one in figures):.2f} |")
        listed = listing_milliseconds(dataclasses.replace(config, run_dir=f"{folder}/listed"))
        print(f"| without artifacts, listing {LISTED} checkpoints: ms | {listed:.2f} |")


if __name__ == "__main__":
    main()
