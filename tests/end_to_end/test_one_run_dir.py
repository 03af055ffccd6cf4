"""Two processes with one run directory, a changed recipe in a finished one, and decoding processes that hang."""

import json
import os
import re
import resource
import shutil
import signal
import time

import psutil
import pytest

from tests.fork_server.client import fork_server
from tests.programs import NARROW, metrics, python

# The same as `-m stylefinetune.train`, but it refuses a run_dir in use without waiting for it.
IMPATIENT = """
import sys
from stylefinetune.errors import run_command
from stylefinetune.train import main
from stylefinetune.training import run_lock
run_lock.WAIT_SECONDS = 0.0
sys.exit(run_command(main, sys.argv[1:]))
"""
ENDLESS = ["--train.max_iter=1000000", "--train.test_interval=0", "--train.display=10", "--checkpoint.snapshot=20"]


def errors_of(done):
    return [line for line in done.stderr.splitlines() if not re.match(r"[IW]\d{4} ", line)]


def start(shards, run_dir, *flags):
    flags = [*NARROW, *ENDLESS, f"--data.shards={shards}", f"--run_dir={run_dir}", *flags]
    return fork_server().start("-m", "stylefinetune.train", *flags)


def wait_for_checkpoint(program, run_dir):
    while not list(run_dir.glob("checkpoints/iter_*")):
        assert program.poll() is None
        time.sleep(0.01)


def exit_record(run_dir):
    return json.loads((run_dir / "exit.json").read_text())


def test_the_second_process_is_refused_and_the_first_one_continues(pixel_shards, tmp_path):
    first = start(pixel_shards, tmp_path)
    wait_for_checkpoint(first, tmp_path)
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}"]
    for ranks in (1, 2):
        second = python("-c", IMPATIENT, *flags, ranks=ranks)
        assert second.returncode == 2, second.stderr
        (line,) = errors_of(second)
        assert line.startswith(
            f"error: run_dir {tmp_path} is in use by process {first.pid} on {os.uname().nodename}; wait until it"
        )
        assert not (tmp_path / "exit.json").exists()
    evaluated = python("-m", "stylefinetune.evaluate", tmp_path)  # reads only
    assert evaluated.returncode == 0, evaluated.stderr
    before = len(metrics(tmp_path, "train"))
    while len(metrics(tmp_path, "train")) == before:
        assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    resumed = start(pixel_shards, tmp_path)  # while the first one still saves its checkpoint
    assert first.wait(120).returncode == 143
    at = exit_record(tmp_path)["iteration"] if (tmp_path / "exit.json").exists() else 0
    while max(entry["iteration"] for entry in metrics(tmp_path, "train")) <= at:
        assert resumed.poll() is None
    resumed.send_signal(signal.SIGTERM)
    assert resumed.wait(120).returncode == 143


def test_a_finished_run_is_reported_and_a_changed_recipe_refused(trained, pixel_shards, tmp_path):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    flags = [*NARROW, "--train.max_iter=12", f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"]
    again = python("-m", "stylefinetune.train", *flags, "--train.display=1", "--data.workers=1")
    assert (again.returncode, errors_of(again)) == (0, [])
    assert "All iterations are done; to continue this run, raise train.max_iter" in again.stderr
    for command in ("train", "check"):
        changed = python("-m", f"stylefinetune.{command}", *flags, "--optim.momentum=0.5", "--train.seed=3")
        assert changed.returncode == 2
        (line,) = errors_of(changed)
        assert line == (
            f"error: {run_dir}/checkpoints/iter_12 is after iteration 12 of 12, so nothing would be trained with the "
            "changed settings: optim.momentum changes from 0.9 to 0.5; train.seed changes from 1701 to 3. Use another "
            f"--run_dir, or remove {run_dir} and start with --resume none"
        )
    more = python("-m", "stylefinetune.train", *flags, "--train.max_iter=13", "--optim.momentum=0.5")
    assert more.returncode == 0, more.stderr
    assert "optim.momentum changes from 0.9 to 0.5" in more.stderr


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_lone_process_whose_workers_are_suspended_ends_and_can_be_resumed(pixel_shards, tmp_path, engine):
    run = start(pixel_shards, tmp_path, "--data.workers=2", "--train.stall_seconds=10", f"--engine={engine}")
    wait_for_checkpoint(run, tmp_path)
    for worker in psutil.Process(run.pid).children():
        worker.suspend()
    done = run.wait(240)
    assert done.returncode == 5, done.stderr
    record = exit_record(tmp_path)
    assert (record["code"], record["reason"], record["requeue"]) == (5, "lost rank", True)
    (line,) = errors_of(done)
    host = re.escape(os.uname().nodename)
    assert re.fullmatch(
        rf"error: rank 0 on {host} has stalled for 10 s while reading data at iteration \d+; run the same command "
        rf"again to continue from {re.escape(record['checkpoint'])}",
        line,
    )


# The same as `-m stylefinetune.train`, but it opens a shard again for almost every picture.
FORGETFUL = """
import sys
from stylefinetune.data import picture_reader
from stylefinetune.errors import run_command
from stylefinetune.train import main
picture_reader.MAX_OPEN_SHARDS = 1
sys.exit(run_command(main, sys.argv[1:]))
"""


def test_workers_without_open_files_end_the_run_with_one_line(pixel_shards, tmp_path):
    flags = [*NARROW, *ENDLESS, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--data.workers=2"]
    run = fork_server().start("-c", FORGETFUL, *flags)
    wait_for_checkpoint(run, tmp_path)
    for worker in psutil.Process(run.pid).children():
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, 3))
    done = run.wait(240)
    (line,) = errors_of(done)
    assert done.returncode == 4
    assert re.match(rf"error: rank 0: {pixel_shards}/train/\d+\.tar: \S+ can't be read \(Too many open files\); ", line)
    assert "raise the limit of open files (ulimit -n)" in line
    assert exit_record(tmp_path)["requeue"] is True
