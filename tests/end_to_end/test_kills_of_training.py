"""A run that ends at random moments, in whatever way, and is started again with the same command, is the quiet run."""

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

from stylefinetune.checkpoint.checkpoint import newest_checkpoint
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
LAUNCHER = [
    "-m",
    "torch.distributed.run",
    "--rdzv_backend=c10d",
    "--rdzv_endpoint=127.0.0.1:0",
    "--monitor_interval=0.1",
]
LAUNCHER += ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
# A step asks the system for the memory of each larger tensor, and so can be refused it at any time.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "16384"}
LOADER_FAILED = r"a decoding process has failed: .*; out of memory\? lower data\.workers"
STOPS = {"TERM": (signal.SIGTERM, True), "INT": (signal.SIGINT, False), "USR1": (signal.SIGUSR1, True)}


@dataclasses.dataclass
class Started:
    """A run under torchrun."""

    launcher: subprocess.Popen
    run_dir: object
    shards: object
    ranks: int
    resumed: str | None

    def wait_for(self, lines):
        """Waits until metrics.jsonl has so many lines of training, or the run has ended; says whether it goes on."""
        file, end = self.run_dir / "metrics.jsonl", time.monotonic() + 120
        while self.launcher.poll() is None and time.monotonic() < end:
            if file.exists() and file.read_text().count('"phase": "train"') >= lines:
                return True
            time.sleep(0.002)
        assert self.launcher.poll() is not None, "neither trained nor ended"
        return False

    def workers(self):
        return psutil.Process(self.launcher.pid).children()

    def end(self):
        """Returns what it said, once it has ended by itself."""
        return self.launcher.communicate(timeout=240)[1]

    def ending(self):
        return json.loads((self.run_dir / "exit.json").read_text())


def start(ranks, run_dir, shards, *flags):
    last = newest_checkpoint(run_dir)
    command = [sys.executable, *LAUNCHER, f"--nproc_per_node={ranks}", "-m", "stylefinetune.train", *FLAGS, *flags]
    launcher = subprocess.Popen(
        [*command, f"--data.shards={shards}", f"--run_dir={run_dir}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
    )
    return Started(launcher, run_dir, shards, ranks, str(last) if last else None)


def told(run_dir):
    """What metrics.jsonl tells of the run but for its speed."""
    keys = ("iteration", "loss", "lr", "accuracy", "correct", "count")
    return [[entry.get(key) for key in keys] for phase in ("train", "test") for entry in metrics(run_dir, phase)]


def kill_everything(started):
    family = [psutil.Process(started.launcher.pid)]
    family += family[0].children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a test's decoding process has just ended
            process.suspend()  # so that none sees another die
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # decoding processes end with their rank
            process.kill()
    started.launcher.communicate(timeout=30)


def refuse_memory(process, kind):
    """Leaves a process the memory that it has, and refuses it any more."""
    resource.prlimit(process.pid, kind, (0, 0))


@contextlib.contextmanager
def cut_short(shard):
    """Has a shard end in its first picture, whoever reads it."""
    body = shard.read_bytes()
    os.truncate(shard, 1024)
    try:
        yield shard
    finally:
        shard.write_bytes(body)


def assert_failed(started, said, code, reason, line):
    """Sees that a run has told, in a line a rank, what a rank has met, unless it was over already."""
    ending = started.ending()
    if ending["code"] == 0:
        return
    assert (ending["code"], ending["reason"]) == (code, reason), said
    assert re.fullmatch(line, ending["message"]), ending
    assert ending["requeue"] == (ending["checkpoint"] != started.resumed), ending
    told = [line for line in said.splitlines() if line.startswith("error:")]
    whole = rf"error: rank \d: {line} \(on {os.uname().nodename}, .* at iteration \d+\)"
    assert told, said
    assert all(re.fullmatch(whole, each) for each in told), said


def assert_refused_memory(started, said):
    """Sees that a run has told so whose rank was refused memory."""
    # Some of what runs in a process aborts it, as safetensors does while it writes; and CPython 3.11 waits in vain for
    # a thread that it was starting.
    if re.search(r"memory allocation of|exitcode: -6|has stalled for 30 s", said):
        assert started.ranks == 1 or started.ending()["reason"] == "lost rank", said
    else:
        line = r"out of memory \(.*\); provide more memory, or lower data\.batch_size and raise train\.iter_size"
        assert_failed(started, said, 5, "out of memory", line)


def strike(started, how, draw):
    """Ends a run in the way that is asked for, and sees that it told so."""
    if how == "everything":
        kill_everything(started)
        assert not (started.run_dir / "exit.json").exists()
        return
    workers = started.workers()
    if how == "one rank":
        victim = draw.choice(workers)
        victim.kill()
        said = started.end()
        if started.ranks > 1 and started.ending()["code"] != 0:
            assert started.ending()["reason"] == "lost rank"
            (line,) = [line for line in said.splitlines() if line.startswith("error:")]
            assert f"on {os.uname().nodename} has died while " in line, said
    elif how == "loader":
        victims = [child for worker in workers for child in worker.children()]
        draw.choice(victims).kill()
        said = started.end()
        assert said.count("a decoding process has failed") == 1 or started.ending()["code"] == 0, said
    elif how == "loader's memory":
        refuse_memory(draw.choice([child for worker in workers for child in worker.children()]), resource.RLIMIT_AS)
        said = started.end()
        assert_failed(started, said, 4, "data", LOADER_FAILED)
    elif how == "memory":
        refuse_memory(draw.choice(workers), draw.choice([resource.RLIMIT_AS, resource.RLIMIT_DATA]))
        said = started.end()
        assert_refused_memory(started, said)
    elif how == "shard":
        with cut_short(draw.choice(sorted((started.shards / "train").iterdir()))) as shard:
            said = started.end()
        line = rf"{re.escape(str(shard))}: \S+ can't be read \(the shard has become shorter than the index .*"
        assert_failed(started, said, 4, "data", line)
    else:
        number, again = STOPS[how]
        draw.choice([started.launcher, draw.choice(workers)]).send_signal(number)
        said = started.end()
        if started.ending()["code"]:  # it may have been over already
            assert (started.ending()["reason"], started.ending()["requeue"]) == ("stopped", again), said
            assert started.ending()["signal"] == number.name
            assert f"stopped by {number.name} after" in said
    assert f'File "{ROOT}/stylefinetune' not in said  # no traceback of ours


def run_with_kills(ranks, run_dir, shards, kills, draw, *flags):
    """Starts the same command until it has finished; returns how many kills it survived."""
    struck = 0
    for how in kills:
        before = len(metrics(run_dir, "train")) if (run_dir / "metrics.jsonl").exists() else 0
        if before > 54:  # what is left may be over before it is struck
            break
        started = start(ranks, run_dir, shards, *flags)
        if started.wait_for(before + draw.randint(1, min(60 // len(kills), 58 - before))):
            time.sleep(draw.random() * 0.05)
            strike(started, how, draw)
            struck += 1
    started = start(ranks, run_dir, shards, *flags)
    said = started.end()
    assert started.launcher.returncode == 0, said
    assert started.ending()["reason"] == "finished"
    return struck


def assert_the_same(run_dir, quiet):
    for file in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        ours, theirs = ((folder / "checkpoints" / "iter_60" / file).read_bytes() for folder in (run_dir, quiet))
        assert ours == theirs, file
    assert told(run_dir) == told(quiet)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")) == []


def quiet_run(ranks, run_dir, shards, *flags):
    started = start(ranks, run_dir, shards, *flags)
    said = started.end()
    assert started.launcher.returncode == 0, said
    return run_dir


@pytest.fixture
def shards(pixel_shards, tmp_path):
    return shutil.copytree(pixel_shards, tmp_path / "shards")


def test_three_ranks_through_many_kinds_of_end_are_bitwise_the_quiet_run(pixel_shards, shards, tmp_path):
    quiet = quiet_run(3, tmp_path / "quiet", pixel_shards)
    draw = random.Random(5)
    kills = [draw.choice(sorted(STOPS)), "shard", "memory", "everything"]
    assert run_with_kills(3, tmp_path / "killed", shards, kills, draw) >= 3
    assert_the_same(tmp_path / "killed", quiet)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "seed", "flags"), [(1, 1, []), (2, 2, DEEPSPEED), (3, 3, [])], ids=["1", "2, DeepSpeed in fp16", "3"]
)
def test_any_ranks_through_many_kills_are_bitwise_the_quiet_run(pixel_shards, shards, tmp_path, ranks, seed, flags):
    quiet = quiet_run(ranks, tmp_path / "quiet", pixel_shards, *flags)
    draw = random.Random(seed)
    kills = [*STOPS, "one rank", "one rank", "everything", "everything"]
    kills += ["loader", "loader's memory", "memory", "shard"]
    draw.shuffle(kills)
    assert run_with_kills(ranks, tmp_path / "killed", shards, kills, draw, *flags) >= 5
    assert_the_same(tmp_path / "killed", quiet)


def test_stopped_on_three_ranks_and_resumed_on_two_is_the_same_run_to_1e_5(pixel_shards, tmp_path):
    """Without dropout, whose draws belong to a rank."""
    plain = ["--model.dropout=0"]
    quiet, moved = start(3, tmp_path / "quiet", pixel_shards, *plain), tmp_path / "moved"
    assert "Optimization Done." in quiet.end()
    stopped = start(3, moved, pixel_shards, *plain)
    assert stopped.wait_for(20)
    stopped.launcher.send_signal(signal.SIGUSR1)
    stopped.end()
    at = stopped.ending()["iteration"]
    assert 20 <= at < 60
    said = start(2, moved, pixel_shards, *plain).end()
    assert f"Restoring previous solver status from {moved}/checkpoints/iter_{at}" in said
    for phase in ("train", "test"):
        ours, theirs = ([entry["loss"] for entry in metrics(folder, phase)] for folder in (moved, tmp_path / "quiet"))
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_rank_that_stalls_is_named_and_the_others_end(pixel_shards, tmp_path):
    endless = ["--train.max_iter=100000", "--train.test_interval=0", "--checkpoint.snapshot=0"]
    started = start(3, tmp_path / "run", pixel_shards, *endless, "--train.stall_seconds=12")
    assert started.wait_for(10)
    victim = started.workers()[1]
    victim.suspend()
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "exit.json").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert started.ending()["message"].startswith(f"rank 1 on {os.uname().nodename} has died or stalled while ")
    victim.resume()
    said = started.end()
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "rank 1 on" in line


def test_a_run_is_stopped_in_the_middle_of_a_test(pixel_shards, tmp_path):
    """The test is long and has to be left, and comes again when the run goes on."""
    long = ["--train.test_iter=100000", "--data.test.batch_size=1", "--train.test_initialization=false"]
    started = start(2, tmp_path / "run", pixel_shards, *long)
    assert started.wait_for(7)
    end = time.monotonic() + 30
    log = tmp_path / "run" / "train.log"
    while "Iteration 7, Testing net" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    started.launcher.send_signal(signal.SIGTERM)
    said = started.end()
    assert "stopped by SIGTERM after 7 iterations" in said
    assert (started.ending()["iteration"], started.ending()["requeue"]) == (7, True)
    assert started.ending()["checkpoint"].endswith("iter_7")
    assert metrics(tmp_path / "run", "test") == []
