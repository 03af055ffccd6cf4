import json
import random
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.programs import run
from tests.wandb_runs import curves, environment, remote_rows, sync, tell, told_rows
from tests.wandb_server import WandbServer

EVEN = list(range(0, 21, 2))  # iterations told of: every second, and the test at the end


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


def checkpoint_before(iteration):
    return iteration // 5 * 5


def test_killed_and_failed_at_random_it_is_one_history(server, tmp_path):
    env, draw = environment(tmp_path / "home", server), random.Random(7)
    start = 0
    for killed in (True, False, True, True):
        at = draw.choice([iteration for iteration in EVEN[:-1] if iteration >= start])
        ends = (at, draw.choice(["test", "train"]))
        tell(tmp_path / "run", env, start=start, ends=ends, killed=killed)
        start = checkpoint_before(at)
    tell(tmp_path / "run", env, start=start)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert remote_rows(server) == told_rows(tmp_path / "run")
    (remote,) = server.runs.values()
    assert remote.exit_code == 0
    assert remote.config["optim"]["value"]["base_lr"] == 0.001
    assert set(server.runs) == {json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]}


def test_what_was_sent_before_a_kill_is_not_sent_again(server, tmp_path):
    """W&B sends what waits each 15 s."""
    env = environment(tmp_path / "home", server)
    tell(tmp_path / "run", env, ends=(14, "train"), linger=16)
    sent = [row["_step"] for row in remote_rows(server)]
    assert sent[0] == 0
    assert 6 <= sent[-1] < 20
    tell(tmp_path / "run", env, start=5)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert curves(remote_rows(server)) == curves(told_rows(tmp_path / "run"))


def test_a_server_that_is_killed_and_comes_back_misses_nothing(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    teller = threading.Thread(
        target=tell, args=(run_dir, env), kwargs={"ends": (18, "train"), "killed": False, "linger": 1}
    )
    teller.start()
    while not server.runs:
        time.sleep(0.02)
    server.stop()
    time.sleep(2)
    server.start()
    teller.join()
    tell(run_dir, env, start=15)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert curves(remote_rows(server)) == curves(told_rows(run_dir))


def test_a_server_that_stays_away_holds_nothing_up_and_is_sent_the_rest_by_the_same_command(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    tell(run_dir, env, ends=(6, "train"), killed=False)
    server.stop()
    said = tell(run_dir, env, start=5)
    assert said.count("Weights & Biases") == 1
    assert "continuing without it; the next start that reaches it sends the missing rows" in said
    assert [row["_step"] for row in told_rows(run_dir)] == EVEN
    server.start()
    assert max(row["_step"] for row in remote_rows(server)) < 10
    tell(run_dir, env, start=20)
    assert remote_rows(server)[4:] == told_rows(run_dir)[4:]
    assert [row["_step"] for row in remote_rows(server)] == EVEN


def test_a_server_that_goes_away_does_not_hold_up_the_end(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    said: list[str] = []
    teller = threading.Thread(target=lambda: said.append(tell(run_dir, env)))
    teller.start()
    while not server.runs:
        time.sleep(0.02)
    server.stop()
    teller.join(60)
    assert not teller.is_alive()
    assert "run the same command again to send the rest" in said[0]
    server.start()
    tell(run_dir, env, start=20)
    assert remote_rows(server) == told_rows(run_dir)


def test_kept_offline_through_kills_it_is_synced_to_one_history(server, tmp_path):
    """Synced on the way, too, as from the login node of a cluster whose nodes reach no server."""
    nobody, somebody = environment(tmp_path / "home"), environment(tmp_path / "home", server)
    run_dir = tmp_path / "run"
    tell(run_dir, nobody, ends=(8, "train"))
    tell(run_dir, nobody, start=5, ends=(12, "test"), killed=False)
    sync(run_dir, somebody)
    tell(run_dir, nobody, start=10, ends=(16, "train"), killed=False)
    said = tell(run_dir, nobody, start=15)
    assert said.count("Weights & Biases: no API key, logging offline (`wandb sync ") == 1
    sync(run_dir, somebody)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    sync(run_dir, somebody)
    assert [row["_step"] for row in remote_rows(server)] == EVEN


def test_begun_offline_and_gone_on_online_it_is_one_history_and_nothing_is_left_to_sync(server, tmp_path):
    nobody, somebody = environment(tmp_path / "home"), environment(tmp_path / "home", server)
    run_dir = tmp_path / "run"
    tell(run_dir, nobody, ends=(12, "train"), killed=False)
    tell(run_dir, somebody, start=10)
    sync(run_dir, somebody)
    assert remote_rows(server) == told_rows(run_dir)
    said = tell(run_dir, nobody, mode="offline", start=20)
    assert "only an online start can send the rest; continuing without it" in said


def test_a_run_that_goes_on_beyond_its_end_is_told_on(server, tmp_path):
    """Step 20 has the test of the old end already, and W&B takes no more for it."""
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    tell(run_dir, env, stop=10)
    tell(run_dir, env, start=10, stop=16)
    assert [row["_step"] for row in remote_rows(server)] == list(range(0, 17, 2))


def test_without_a_key_the_run_is_kept_offline(tmp_path):
    run_dir = tmp_path / "run"
    tell(run_dir, environment(tmp_path / "home"))
    told = inspect(run_dir)
    for name in ("train/loss", "train/lr", "train/lr_x10", "test/accuracy", "test/loss", "train/images_per_second"):
        assert name in told
    assert "train/data_wait" in told
    assert "base_lr" in told  # the resolved config
    assert (run_dir / "train.log").read_text().count("no API key, logging offline") == 1


def test_a_server_out_of_reach_from_the_beginning_means_offline(tmp_path):
    with socket.socket() as unused:  # bound but not listening, so that every connection is refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        account = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
        said = tell(tmp_path / "run", environment(tmp_path / "home", None, **account))
    assert said.count("Weights & Biases failed") == 1
    assert "trying offline" in said
    assert "train/loss" in inspect(tmp_path / "run")


def test_a_key_that_the_server_refuses_means_offline(server, tmp_path):
    said = tell(tmp_path / "run", environment(tmp_path / "home", server, WANDB_API_KEY="1" * 40))
    assert said.count("Weights & Biases failed") == 1
    assert "trying offline" in said
    assert server.runs == {}


def test_wandbs_own_mode_is_heeded(tmp_path):
    said = tell(tmp_path / "run", environment(tmp_path / "home", None, WANDB_MODE="offline"))
    assert "no API key" not in said
    assert list((tmp_path / "run").glob("wandb/offline-run-*"))


# Told of two iterations; W&B's own processes end between them, as where a launcher's signal goes to all processes.
LOST = """
import logging, sys, time
import psutil
from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.tracking.wandb_run import WandbRun

logging.basicConfig(format="%(message)s")
run = WandbRun(Config(run_dir=sys.argv[1], tracking=TrackingConfig(wandb="offline")), 0, [], logging.getLogger("a"))
run.log({"iteration": 0, "phase": "train", "loss": 1.0})
run.commit()
for process in psutil.Process().children(recursive=True):
    process.terminate()
    process.wait()
for iteration in range(1, int(sys.argv[2])):
    run.log({"iteration": iteration, "phase": "train", "loss": 1.0})
run.finish(failed=True)
print("left")
"""


@pytest.mark.parametrize("until", [1, 300])
def test_wandbs_own_processes_lost_are_one_line(tmp_path, until):
    (tmp_path / "run").mkdir()
    left = run(sys.executable, "-c", LOST, tmp_path / "run", until, env=environment(tmp_path / "home"))
    assert (left.returncode, left.stdout) == (0, "left\n")
    assert left.stderr.startswith("Weights & Biases failed (")
    assert left.stderr.count("\n") == 1


def inspect(run_dir):
    """Returns what W&B's own program reads of the one folder of an offline run."""
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    read = run(Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file)
    assert read.returncode == 0, read.stderr
    return read.stdout
