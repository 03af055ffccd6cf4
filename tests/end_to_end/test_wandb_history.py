"""The history and the artifacts at W&B of a run that is killed twice, once while the server is down."""

import json
import signal
import time

from tests.fork_server.client import fork_server
from tests.programs import NARROW
from tests.wandb_runs import curves, environment, local_rows, remote_rows, wait_for_next_second
from tests.wandb_server import WandbServer

SCHEDULE = ["--train.max_iter=24", "--train.test_interval=6", "--train.display=1", "--checkpoint.snapshot=5"]


def train(pixel_shards, run_dir, env, *flags, killed_at=None):
    command = ["-m", "stylefinetune.train", *NARROW, *SCHEDULE, f"--data.shards={pixel_shards}"]
    program = fork_server().start(*command, f"--run_dir={run_dir}", "--tracking.wandb=auto", *flags, env=env)
    if killed_at is not None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and program.poll() is None and last_iteration(run_dir) < killed_at:
            time.sleep(0.01)
        program.send_signal(signal.SIGKILL)
    finished = program.wait(120)
    assert finished.returncode == (0 if killed_at is None else -signal.SIGKILL), finished.stderr
    wait_for_next_second()


def last_iteration(run_dir):
    """Return the iteration of the last complete line of metrics.jsonl."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return max((json.loads(line)["iteration"] for line in lines), default=-1)


def test_the_history_is_that_of_an_uninterrupted_run(pixel_shards, tmp_path):
    with WandbServer() as server:
        env = environment(tmp_path / "home", server)
        artifacts = "--tracking.artifacts=all"
        train(pixel_shards, tmp_path / "whole", env, "--tracking.wandb=disabled", artifacts)
        train(pixel_shards, tmp_path / "run", env, artifacts, killed_at=7)
        server.stop()
        train(pixel_shards, tmp_path / "run", env, artifacts, killed_at=13)
        server.start()
        train(pixel_shards, tmp_path / "run", env, artifacts)
        history = remote_rows(server)
    assert [row["_step"] for row in history] == list(range(25))
    last = history[-1]
    pages = {name.removeprefix("final/"): last.pop(name) for name in list(last) if name.startswith("final/")}
    assert {"confusion", "calibration", "worst", "best"} <= pages.keys()  # which only W&B gets
    assert history == local_rows(tmp_path / "run")
    assert curves(history) == curves(local_rows(tmp_path / "whole"))
    assert_artifacts(server, tmp_path / "run", pixel_shards)


def assert_artifacts(server, run_dir, shards):
    """Assert that the server has the checkpoints of the folder once each, and the index as the input of the run."""
    saved = sorted((run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    sent = server.artifacts.of_type("model")
    assert [one.files for one in sent] == [{file.name: file.read_bytes() for file in one.iterdir()} for one in saved]
    best = (run_dir / "best").resolve().name
    for one, path in zip(sent, saved, strict=True):
        aliases = (
            {path.name} | ({"latest"} if path == saved[-1] else set()) | ({"best"} if path.name == best else set())
        )
        assert server.artifacts.aliases_of(one) == aliases
        progress = json.loads((path / "progress.json").read_text())
        assert (one.metadata["iteration"], one.metadata["shards"]) == (progress["iteration"], progress["index"])
    assert sent[-1].metadata["test/accuracy"] == progress["tests"][-1]["accuracy"]
    (index,) = server.artifacts.of_type("dataset")
    assert index.files == {"index.parquet": (shards / "index.parquet").read_bytes()}
    assert index.used_by == set(server.runs)
