"""A run that is killed or stopped at random moments and run again has the results of an uninterrupted run."""

import contextlib
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from stylefinetune.checkpoint.folders import newest_checkpoint
from tests.fork_server.client import Finished, fork_server
from tests.programs import NARROW, ROOT, metrics

FLAGS = [
    *NARROW,
    "--data.workers=1",
    "--train.max_iter=60",
    "--train.display=1",
    "--train.average_loss=3",
    "--train.test_interval=7",
    "--checkpoint.snapshot=4",
    "--checkpoint.keep_last=3",
    "--train.stall_seconds=30",
]
DEEPSPEED = ["--engine=deepspeed", "--deepspeed.zero_stage=2", "--train.precision=fp16"]
SLOW = ["--train.iter_size=8"]  # eight batches an iteration, so that a run lasts long enough to be killed in its midst
LAUNCHER = [
    "-m",
    "torch.distributed.run",
    "--rdzv_backend=c10d",
    "--rdzv_endpoint=127.0.0.1:0",
    "--monitor_interval=0.1",
]
LAUNCHER += ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
# With this threshold each larger tensor of a step gets its memory from the system, which can refuse it at any time.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "16384"}
LOADER_FAILED = r"a decoding process has failed: .*; out of memory or of open files\? lower data\.workers"
STOPS = {"TERM": (signal.SIGTERM, True), "INT": (signal.SIGINT, False), "USR1": (signal.SIGUSR1, True)}


class Torchrun:
    """A run under torchrun, with the methods of tests.fork_server.client.Program."""

    def __init__(self, ranks, *flags):
        command = [sys.executable, *LAUNCHER, f"--nproc_per_node={ranks}", "-m", "stylefinetune.train", *flags]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **ENVIRONMENT}
        )
        self.pid = self._process.pid

    def poll(self):
        return self._process.poll()

    def send_signal(self, number):
        self._process.send_signal(number)

    def wait(self, timeout):
        _, errors = self._process.communicate(timeout=timeout)
        return Finished(self._process.returncode, "", errors, [])


def forks(ranks, *flags):
    """Start a run without torchrun, which takes a quarter of the time."""
    return fork_server().start("-m", "stylefinetune.train", *flags, ranks=ranks)


@dataclasses.dataclass
class Run:
    """A run under way.

    Attributes:
        launcher: the process that run the ranks, a Torchrun or a Program.
        run_dir: its folder.
        shards: its pictures.
        ranks: how many.
        resumed: the checkpoint that it resumed from.
    """

    launcher: object
    run_dir: object
    shards: object
    ranks: int
    resumed: str | None

    def wait_for(self, lines):
        """Wait for that number of training lines in metrics.jsonl; return whether the run is still going."""
        file, deadline = self.run_dir / "metrics.jsonl", time.monotonic() + 120
        while self.launcher.poll() is None and time.monotonic() < deadline:
            if file.exists() and file.read_text().count('"phase": "train"') >= lines:
                return True
            time.sleep(0.002)
        assert self.launcher.poll() is not None, "it neither trains nor exits"
        return False

    def workers(self):
        return psutil.Process(self.launcher.pid).children()

    def stop(self, number, draw):
        """Send a signal to a rank, or to torchrun, which passes it on."""
        receivers = self.workers()
        if isinstance(self.launcher, Torchrun):
            receivers.append(self.launcher)
        draw.choice(receivers).send_signal(number)

    def end(self):
        """Wait until it exits by itself, and return its stderr."""
        return self.launcher.wait(240).stderr

    def finish(self):
        """Wait until it has trained to the last iteration."""
        finished = self.launcher.wait(240)
        assert finished.returncode == 0, finished.stderr
        assert self.exit_record()["reason"] == "finished"
        return self.run_dir

    def exit_record(self):
        return json.loads((self.run_dir / "exit.json").read_text())


def start(ranks, run_dir, shards, *flags, launch=forks):
    last = newest_checkpoint(run_dir)
    launcher = launch(ranks, *FLAGS, *flags, f"--data.shards={shards}", f"--run_dir={run_dir}")
    return Run(launcher, run_dir, shards, ranks, str(last) if last else None)


def results(run_dir):
    """The metrics of a run without its times."""
    keys = ("iteration", "loss", "lr", "accuracy", "correct", "count")
    return [[entry.get(key) for key in keys] for phase in ("train", "test") for entry in metrics(run_dir, phase)]


def kill_everything(run):
    family = [psutil.Process(run.launcher.pid)]
    family += family[0].children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a decoding process of a test has just exited
            process.suspend()  # so that none reacts to the death of another
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # decoding processes exit with their rank
            process.kill()
    run.launcher.wait(30)


def refuse_memory(process, kind):
    """Refuse a process more memory than it has."""
    resource.prlimit(process.pid, kind, (0, 0))


def started_loaders(workers):
    """Return the decoding processes that have started both threads; without memory, CPython 3.11 can hang in that."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [child for worker in workers for child in worker.children() if child.num_threads() > 2]
            if found:
                return found
        time.sleep(0.01)
    raise AssertionError("no decoding process has started")


@contextlib.contextmanager
def cut_short(shard):
    """Truncates a shard within its first picture."""
    content = shard.read_bytes()
    os.truncate(shard, 1024)
    try:
        yield shard
    finally:
        shard.write_bytes(content)


def assert_failed(run, output, code, reason, line):
    """Check the exit record and the error lines of a run in which a rank failed, unless it had finished before."""
    record = run.exit_record()
    if record["code"] == 0:
        return
    assert (record["code"], record["reason"]) == (code, reason), output
    assert re.fullmatch(line, record["message"]), record
    assert record["requeue"] == (record["checkpoint"] != run.resumed), record
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    expected = rf"error: rank \d: {line} \(on {os.uname().nodename}, .* at iteration \d+\)"
    assert errors, output
    assert all(re.fullmatch(expected, error) for error in errors), output


def assert_refused_memory(run, output):
    """Check the exit record and the error lines of a run in which a rank was refused memory."""
    # safetensors aborts the process while it writes, and CPython 3.11 can hang while it starts a thread.
    if re.search(r"memory allocation of|exitcode: -6|has stalled for 30 s", output):
        assert run.ranks == 1 or run.exit_record()["reason"] == "lost rank", output
    else:
        line = r"out of memory \(.*\); provide more memory, or lower data\.batch_size and raise train\.iter_size"
        assert_failed(run, output, 5, "out of memory", line)


def strike(run, how, draw):
    """End a run in a way, and check what it reports."""
    if how == "everything":
        kill_everything(run)
        assert not (run.run_dir / "exit.json").exists()
        return
    workers = run.workers()
    if how == "one rank":
        victim = draw.choice(workers)
        victim.kill()
        output = run.end()
        if run.ranks > 1 and run.exit_record()["code"] != 0:
            assert run.exit_record()["reason"] == "lost rank"
            (line,) = [line for line in output.splitlines() if line.startswith("error:")]
            assert f"on {os.uname().nodename} has died while " in line, output
    elif how == "loader":
        victims = [child for worker in workers for child in worker.children()]
        draw.choice(victims).kill()
        output = run.end()
        assert output.count("a decoding process has failed") == 1 or run.exit_record()["code"] == 0, output
    elif how == "loader's memory":
        refuse_memory(draw.choice(started_loaders(workers)), resource.RLIMIT_AS)
        if run.wait_for(len(metrics(run.run_dir, "train")) + 3):  # it reads stored pixels without more memory
            kill_everything(run)
            return
        output = run.end()
        assert_failed(run, output, 4, "data", LOADER_FAILED)
    elif how == "memory":
        refuse_memory(draw.choice(workers), draw.choice([resource.RLIMIT_AS, resource.RLIMIT_DATA]))
        output = run.end()
        assert_refused_memory(run, output)
    elif how == "shard":
        with cut_short(draw.choice(sorted((run.shards / "train").iterdir()))) as shard:
            output = run.end()
        line = rf"{re.escape(str(shard))}: \S+ can't be read \(the shard has become shorter than the index .*"
        assert_failed(run, output, 4, "data", line)
    else:
        number, requeue = STOPS[how]
        run.stop(number, draw)
        output = run.end()
        if run.exit_record()["code"]:  # else it had finished before
            assert (run.exit_record()["reason"], run.exit_record()["requeue"]) == ("stopped", requeue), output
            assert run.exit_record()["signal"] == number.name
            assert f"stopped by {number.name} after" in output
    assert f'File "{ROOT}/stylefinetune' not in output  # no traceback of ours


def run_with_kills(ranks, run_dir, shards, kills, draw, *flags, launch=forks):
    """Start the same command until it has finished; return the number of kills."""
    struck = 0
    for how in kills:
        before = len(metrics(run_dir, "train")) if (run_dir / "metrics.jsonl").exists() else 0
        if before > 54:  # it may finish before the kill
            break
        run = start(ranks, run_dir, shards, *flags, launch=launch)
        if run.wait_for(before + draw.randint(1, min(60 // len(kills), 58 - before))):
            time.sleep(draw.random() * 0.05)
            strike(run, how, draw)
            struck += 1
    start(ranks, run_dir, shards, *flags, launch=launch).finish()
    return struck


def assert_the_same(run_dir, uninterrupted):
    for file in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        ours, theirs = ((folder / "checkpoints" / "iter_60" / file).read_bytes() for folder in (run_dir, uninterrupted))
        assert ours == theirs, file
    assert results(run_dir) == results(uninterrupted)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")) == []


@pytest.fixture
def shards(pixel_shards, tmp_path):
    return shutil.copytree(pixel_shards, tmp_path / "shards")


def test_three_ranks_that_end_in_several_ways_are_bitwise_equal_to_an_uninterrupted_run(pixel_shards, shards, tmp_path):
    uninterrupted = start(3, tmp_path / "uninterrupted", pixel_shards, *SLOW).finish()
    draw = random.Random(5)
    kills = [draw.choice(sorted(STOPS)), "shard", "one rank", "everything"]
    assert run_with_kills(3, tmp_path / "killed", shards, kills, draw, *SLOW) >= 3
    assert_the_same(tmp_path / "killed", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "seed", "flags"), [(1, 1, []), (2, 2, DEEPSPEED), (3, 3, [])], ids=["1", "2, DeepSpeed in fp16", "3"]
)
def test_many_kills_under_torchrun_change_no_bit(pixel_shards, shards, tmp_path, ranks, seed, flags):
    flags = [*flags, *SLOW]
    uninterrupted = start(ranks, tmp_path / "uninterrupted", pixel_shards, *flags, launch=Torchrun).finish()
    draw = random.Random(seed)
    kills = [*STOPS, "one rank", "one rank", "everything", "everything"]
    kills += ["loader", "loader's memory", "memory", "shard"]
    draw.shuffle(kills)
    assert run_with_kills(ranks, tmp_path / "killed", shards, kills, draw, *flags, launch=Torchrun) >= 5
    assert_the_same(tmp_path / "killed", uninterrupted)


def test_a_run_stopped_on_three_ranks_and_resumed_on_two_is_equal_to_1e_5(pixel_shards, tmp_path):
    """Without dropout, which depends on the rank."""
    plain = ["--model.dropout=0"]
    uninterrupted, moved = start(3, tmp_path / "uninterrupted", pixel_shards, *plain), tmp_path / "moved"
    assert "Optimization Done." in uninterrupted.end()
    stopped = start(3, moved, pixel_shards, *plain)
    assert stopped.wait_for(20)
    stopped.stop(signal.SIGUSR1, random.Random(0))
    stopped.end()
    at = stopped.exit_record()["iteration"]
    assert 20 <= at < 60
    output = start(2, moved, pixel_shards, *plain).end()
    assert f"Restoring previous solver status from {moved}/checkpoints/iter_{at}" in output
    for phase in ("train", "test"):
        ours, theirs = (
            [entry["loss"] for entry in metrics(folder, phase)] for folder in (moved, tmp_path / "uninterrupted")
        )
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_a_rank_that_stalls_is_reported_and_the_others_exit(pixel_shards, tmp_path):
    endless = ["--train.max_iter=100000", "--train.test_interval=0", "--checkpoint.snapshot=0"]
    run = start(3, tmp_path / "run", pixel_shards, *endless, "--train.stall_seconds=12", launch=Torchrun)
    assert run.wait_for(10)
    victim = run.workers()[1]
    victim.suspend()
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "exit.json").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert run.exit_record()["message"].startswith(f"rank 1 on {os.uname().nodename} has died or stalled while ")
    victim.resume()
    output = run.end()
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "rank 1 on" in line


def test_a_run_is_stopped_in_the_middle_of_a_test(pixel_shards, tmp_path):
    """The long test is aborted, and repeated when the run resumes."""
    long = ["--train.test_iter=100000", "--data.test.batch_size=1", "--train.test_initialization=false"]
    run = start(2, tmp_path / "run", pixel_shards, *long)
    assert run.wait_for(7)
    end = time.monotonic() + 30
    log = tmp_path / "run" / "train.log"
    while "Iteration 7, Testing net" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    run.stop(signal.SIGTERM, random.Random(0))
    output = run.end()
    assert "stopped by SIGTERM after 7 iterations" in output
    assert (run.exit_record()["iteration"], run.exit_record()["requeue"]) == (7, True)
    assert run.exit_record()["checkpoint"].endswith("iter_7")
    assert metrics(tmp_path / "run", "test") == []
