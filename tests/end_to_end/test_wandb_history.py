"""A training that is killed twice, once while W&B's server is away, and what W&B has of it then."""

import json
import os
import signal
import subprocess
import sys
import time

from tests.programs import NARROW, ROOT, run
from tests.wandb_runs import curves, environment, local_rows, remote_rows
from tests.wandb_server import WandbServer

SCHEDULE = ["--train.max_iter=24", "--train.test_interval=6", "--train.display=1", "--checkpoint.snapshot=5"]


def train(pixel_shards, run_dir, env, *flags, killed_at=None):
    command = [sys.executable, "-m", "stylefinetune.train", *NARROW, *SCHEDULE, f"--data.shards={pixel_shards}"]
    command += [f"--run_dir={run_dir}", "--tracking.wandb=auto", *flags]
    if killed_at is None:
        done = run(*command, env=env)
        assert done.returncode == 0, done.stderr
        return
    with subprocess.Popen(command, env={**os.environ, **env}, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if reached(run_dir) >= killed_at:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def reached(run_dir):
    """Return the last logged iteration; a line may be incomplete."""
    path = run_dir / "metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return max((json.loads(line)["iteration"] for line in whole), default=-1)


def test_the_history_is_the_uninterrupted_runs(pixel_shards, tmp_path):
    with WandbServer() as server:
        env = environment(tmp_path / "home", server)
        train(pixel_shards, tmp_path / "whole", env, "--tracking.wandb=disabled")
        train(pixel_shards, tmp_path / "run", env, killed_at=7)
        server.stop()
        train(pixel_shards, tmp_path / "run", env, killed_at=13)
        server.start()
        train(pixel_shards, tmp_path / "run", env)
        history = remote_rows(server)
    assert [row["_step"] for row in history] == list(range(25))
    assert history == local_rows(tmp_path / "run")
    assert curves(history) == curves(local_rows(tmp_path / "whole"))
