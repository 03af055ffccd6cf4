"""Logs runs to W&B in separate processes, which may be killed, and compares the rows at W&B with metrics.jsonl."""

import json
import signal
import sys
import threading
import time
from pathlib import Path

from tests.programs import python, run
from tests.wandb_server import WandbServer

# Logs what a run logs that tests every 4 iterations, displays every 2 and saves every 5; it trains nothing. The
# checkpoint of iteration 10 is the best one. Of the others it keeps one.
PROGRAM = """
import dataclasses, json, os, shutil, signal, sys, time
from pathlib import Path
import torch
from stylefinetune.config.schema import CheckpointConfig, Config, TrackingConfig, TrainConfig
from stylefinetune.tracking.dashboards import wandb_run
from stylefinetune.tracking.metrics import TestResult
from stylefinetune.tracking.run_facts import SavedCheckpoint
from stylefinetune.tracking.tracker import Tracker
from stylefinetune.distributed.world import World
from tests.run_facts import FACTS, RESULT

def test(iteration):
    tracker.log_test_start(iteration)
    tracker.log_test(iteration, TestResult(correct=iteration, count=100, loss=iteration / 7), {})

def checkpoints():
    found = sorted(Path(run_dir, "checkpoints").glob("iter_*"), key=lambda path: int(path.name[5:]))
    return [SavedCheckpoint(path, int(path.name[5:]), {"loss": 0.5}, is_best=path.name == "iter_10") for path in found]

def save(iteration):
    folder = Path(run_dir, "checkpoints", f"iter_{iteration}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.joinpath("model.safetensors").write_text(f"weights of {iteration}")
    folder.joinpath("config.yaml").write_text("the same")
    tracker.note_checkpoints(checkpoints())
    for one in checkpoints()[:-1]:
        if not one.is_best:
            shutil.rmtree(one.path)

def end(*here):
    if here == (ended_at, ended_after):
        while gate and not os.path.exists(gate):
            time.sleep(0.05)
        if not killed:
            sys.exit(1)
        os.kill(os.getpid(), signal.SIGKILL)

run_dir, mode, start, stop, *ending, with_result, kept, ranks, stall = json.loads(sys.argv[1])
ended_at, ended_after, killed, gate, limits = ending
for name, seconds in limits.items():
    setattr(wandb_run, name, seconds)
tracking = TrackingConfig(wandb=mode, artifacts=kept)
train = TrainConfig(max_iter=stop, stall_seconds=stall)
config = Config(run_dir=run_dir, train=train, tracking=tracking, checkpoint=CheckpointConfig(snapshot=5))
index = Path(run_dir, "index.parquet")
if kept != "none" and not index.exists():
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text("the index")
facts = dataclasses.replace(FACTS, index_file=index, ranks=ranks)
tested = [stop] if start == stop else list(range(0, start, 4))
with Tracker(config, facts, World(rank=0, size=1, device=torch.device("cpu")), start, tested) as tracker:
    if start:
        tracker.note_checkpoints(checkpoints())
    for iteration in range(start, stop):
        if iteration % 4 == 0:
            test(iteration)
        end(iteration, "test")
        if iteration % 2 == 0:
            rates = {"lr": 0.1 / (iteration + 1), "lr_x10": 1 / (iteration + 1)}
            tracker.log_train(iteration, [iteration / 3], rates, 0.0, {})
        end(iteration, "train")
        tracker.advance(iteration)
        if (iteration + 1) % 5 == 0 and iteration + 1 < stop:
            save(iteration + 1)
        time.sleep(0.01)
    if start < stop:
        if with_result:
            tracker.log_result(stop, lambda: RESULT)
        test(stop)
        save(stop)
    end(stop, "test")
"""


CHECKPOINTS = (5, 10, 15, 20)
EVEN = list(range(0, 21, 2))  # logged iterations: every second one, and the final test


def environment(home: Path, server: WandbServer | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a user with an account at `server`, or with none."""
    home.mkdir(parents=True, exist_ok=True)
    folders = {"HOME": home, "NETRC": home / "netrc", "WANDB_CONFIG_DIR": home, "WANDB_CACHE_DIR": home}
    account = server.account if server else {"WANDB_API_KEY": ""}
    return {**{name: str(value) for name, value in folders.items()}, **account, **more}


def wait_for_next_second():
    """Wait, since W&B names the folder of a start by its second: two starts in the same second would share a folder."""
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.02)


def log_run(
    run_dir,
    env,
    *,
    mode="auto",
    start=0,
    stop=20,
    ends=(-1, ""),
    killed=True,
    gate="",
    limits=None,
    result=False,
    artifacts="none",
    ranks=1,
    stall_seconds=600.0,
):
    """Log a run from iteration `start` to `stop`; return its stderr.

    Args:
        run_dir: folder of the run.
        env: environment with the W&B account.
        mode: tracking.wandb.
        start: checkpoint that the run resumes from.
        stop: max_iter.
        ends: (iteration, "test" or "train") after which the run ends early.
        killed: whether it is killed then; otherwise it fails and closes.
        gate: file that it waits for before it ends early.
        limits: values for the constants of wandb_run, in seconds, such as INIT_SECONDS.
        result: whether it shows the predictions of its last test.
        artifacts: tracking.artifacts.
        ranks: number of ranks of the run, of which this is the first.
        stall_seconds: train.stall_seconds.
    """
    ending = [*ends, killed, str(gate), limits or {}]
    arguments = json.dumps([str(run_dir), mode, start, stop, *ending, result, artifacts, ranks, stall_seconds])
    done = python("-c", PROGRAM, arguments, env=env)
    expected = 0 if ends[0] < 0 else -signal.SIGKILL if killed else 1
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr
    wait_for_next_second()
    return done.stderr


def sync(run_dir, env):
    """Run `wandb sync` on the offline folders."""
    done = run(Path(sys.executable).with_name("wandb"), "sync", run_dir / "wandb", env=env, cwd=run_dir)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr


def local_rows(run_dir):
    """Return metrics.jsonl as W&B's rows: a step and all values of its iteration."""
    rows: dict[int, dict[str, float]] = {}
    for entry in map(json.loads, (Path(run_dir) / "metrics.jsonl").read_text().splitlines()):
        iteration, phase = entry.pop("iteration"), entry.pop("phase")
        if phase not in {"train", "test"}:
            continue
        row = rows.setdefault(iteration, {"_step": iteration})
        common = {"time", "epoch", "pictures"}
        row |= {name if name in common else f"{phase}/{name}": value for name, value in entry.items()}
    return list(rows.values())


def remote_rows(server):
    """Return the rows of the only run on the server."""
    (remote,) = server.runs.values()
    return [
        {"time": row["_timestamp"]} | {name: value for name, value in row.items() if name == "_step" or name[0] != "_"}
        for row in remote.history
    ]


SPEEDS = ("images_per_second", "tflops", "peak_memory_bytes", "data_wait", "remaining_seconds")


def curves(rows):
    """Return the rows without times and speeds, which differ between processes."""
    times = {"time", *(f"train/{name}" for name in SPEEDS)}
    return [{name: row[name] for name in row if name not in times and not name.endswith("_ms")} for row in rows]


def start_thread(function, *arguments, **further):
    thread = threading.Thread(target=function, args=arguments, kwargs=further, daemon=True)
    thread.start()
    return thread


def wait_until(condition, thread):
    """Wait for a condition that the thread's program brings about."""
    while not condition():
        assert thread.is_alive()
        time.sleep(0.02)


def assert_all_checkpoints(server, expected=CHECKPOINTS):
    """Assert that the server has each checkpoint once, with its files and aliases, and the index as the run's input."""
    (run_id,) = server.runs
    versions = server.artifacts.named(f"checkpoint-{run_id}")
    assert [one.files["model.safetensors"].decode() for one in versions] == [f"weights of {at}" for at in expected]
    aliases = [{f"iter_{at}"} | ({"best"} if at == 10 else set()) for at in expected]
    aliases[-1] |= {"latest"}
    assert [server.artifacts.aliases_of(one) for one in versions] == aliases
    assert [one.metadata["iteration"] for one in versions] == list(expected)
    (index,) = server.artifacts.of_type("dataset")
    assert (index.files, index.used_by) == ({"index.parquet": b"the index"}, {run_id})
