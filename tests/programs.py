"""Runs the project's programs as a user would, and reads what they leave."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NARROW = [
    "--data.image_size=48",
    "--data.crop_size=43",
    "--data.batch_size=10",
    "--data.workers=0",
    "--model.widths=[8,16,16,16,16,32,32]",
    "--optim.base_lr=0.01",
    "--tracking.wandb=disabled",
]


def run(*command, timeout=300, env=None, cwd=ROOT):
    """Runs a program to its end and returns what it said."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        check=False,
    )


def assemble(*arguments, cwd=ROOT):
    """Runs `python -m shards assemble`, which must succeed."""
    done = run(sys.executable, "-m", "shards", "assemble", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def torchrun(ranks, *arguments, env=None, timeout=300, cwd=ROOT):
    """Runs training on so many gloo ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--rdzv_backend=c10d"]
    rendezvous = ["--rdzv_endpoint=127.0.0.1:0", "-m", "stylefinetune.train"]
    return run(
        *launcher, *rendezvous, *arguments, env={"OMP_NUM_THREADS": "1", **(env or {})}, timeout=timeout, cwd=cwd
    )


def free_port(address="127.0.0.1"):
    """Returns a port for a program to listen at, below those that the system gives to whoever asks for any."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, random.randrange(20000, 32768)))
            return probe.getsockname()[1]


def metrics(run_dir, phase):
    """Returns the lines of metrics.jsonl of one phase."""
    lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["phase"] == phase]
