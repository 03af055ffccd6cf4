"""Runs the project's programs as a user would, and reads their metrics."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

from tests.fork_server.client import ROOT, fork_server

NARROW = [
    "--data.image_size=48",
    "--data.crop_size=43",
    "--data.batch_size=10",
    "--data.workers=0",
    "--model.widths=[8,16,16,16,16,32,32]",
    "--optim.base_lr=0.01",
    "--tracking.wandb=disabled",
]
TWENTY = ["--train.max_iter=20", "--train.test_interval=10", "--train.display=1", "--checkpoint.snapshot=0"]


def run(*command, timeout=300, env=None, cwd=ROOT):
    """Run any program to its end, and return its exit code and output."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        check=False,
    )


def python(*arguments, ranks=1, timeout=300, env=None, cwd=ROOT):
    """Does the same for `python ARGUMENTS`, in a fork of a process that has imported torch (see tests/fork_server).

    Args:
        arguments: such as "-m", "stylefinetune.predict", "photo.jpg".
        ranks: how many processes run it together; of one, it runs without a launcher.
        timeout: in seconds.
        env: variables to add to the environment, except those that act while an interpreter starts.
        cwd: the working folder.
    """
    return fork_server().start(*arguments, ranks=ranks, env=env, cwd=cwd).wait(timeout)


def train(*arguments):
    """Train on one rank in this process."""
    from stylefinetune.train import main

    with contextlib.chdir(ROOT):
        main([str(argument) for argument in arguments])


def train_on(ranks, *flags, timeout=300, env=None, cwd=ROOT):
    """Run `python -m stylefinetune.train` on so many gloo ranks."""
    return python("-m", "stylefinetune.train", *flags, ranks=ranks, timeout=timeout, env=env, cwd=cwd)


def assemble(*arguments, cwd=ROOT):
    """Run `python -m shards assemble`, which must succeed."""
    done = python("-m", "shards", "assemble", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def torchrun(ranks, *arguments, env=None, timeout=300, cwd=ROOT):
    """Run training under torchrun, for tests of the launcher."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--rdzv_backend=c10d"]
    rendezvous = ["--rdzv_endpoint=127.0.0.1:0", "-m", "stylefinetune.train"]
    return run(
        *launcher, *rendezvous, *arguments, env={"OMP_NUM_THREADS": "1", **(env or {})}, timeout=timeout, cwd=cwd
    )


def free_port(address="127.0.0.1"):
    """Return a free port below the range from which the system gives ports to connections."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, random.randrange(20000, 32768)))
            return probe.getsockname()[1]


def metrics(run_dir, phase):
    """Return the lines of metrics.jsonl of one phase."""
    lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["phase"] == phase]


def bash_completions(script, line):
    """Return what bash proposes for the last word of a command line, after it has read a completion script."""
    command, *words = line.split()
    program = f'{script}\nCOMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _shtab_{command}; echo "${{COMPREPLY[@]}}"'
    done = run("bash", "-c", program, "bash", command, *words)
    return done.stdout.split()
