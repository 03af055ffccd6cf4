import json
import random
import socket
import sys
from pathlib import Path

import pytest
import wandb

from stylefinetune.config.schema import TrackingConfig
from stylefinetune.tracking.dashboards.wandb_run import _name_of
from tests.programs import python, run
from tests.wandb_runs import (
    EVEN,
    assert_all_checkpoints,
    curves,
    environment,
    local_rows,
    log_run,
    remote_rows,
    start_thread,
    sync,
    wait_until,
)


def checkpoint_before(iteration):
    return iteration // 5 * 5


def test_a_run_killed_and_failed_at_random_has_one_history(server, tmp_path):
    env, draw = environment(tmp_path / "home", server), random.Random(7)
    start = 0
    for killed in (True, False, True, True):
        at = draw.choice([iteration for iteration in EVEN[:-1] if iteration >= start])
        ends = (at, draw.choice(["test", "train"]))
        log_run(tmp_path / "run", env, start=start, ends=ends, killed=killed)
        start = checkpoint_before(at)
    log_run(tmp_path / "run", env, start=start)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert remote_rows(server) == local_rows(tmp_path / "run")
    (remote,) = server.runs.values()
    assert remote.exit_code == 0
    assert remote.config["optim"]["value"]["base_lr"] == 0.001
    assert remote.config["run"]["value"]["classes"] == ["Noir", "Bokeh"]
    assert remote.config["run"]["value"]["kept_urls"] == 0.75
    assert [row["pictures"] for row in remote_rows(server)] == [50 * iteration for iteration in EVEN]
    assert set(server.runs) == {json.loads((tmp_path / "run" / "wandb.json").read_text())["id"]}


def test_rows_sent_before_a_kill_are_not_sent_again(server, tmp_path):
    """W&B sends waiting rows every 15 s, here every second."""
    env = environment(tmp_path / "home", server, WANDB__FILE_STREAM_TRANSMIT_INTERVAL="1")
    gate = tmp_path / "gate"
    thread = start_thread(log_run, tmp_path / "run", env, ends=(14, "train"), gate=gate)
    wait_until(lambda: server.runs and remote_rows(server)[-1:] and remote_rows(server)[-1]["_step"] >= 6, thread)
    gate.touch()
    thread.join()
    sent = [row["_step"] for row in remote_rows(server)]
    assert sent[0] == 0
    assert 6 <= sent[-1] < 20
    log_run(tmp_path / "run", env, start=5)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert curves(remote_rows(server)) == curves(local_rows(tmp_path / "run"))


def test_a_server_that_was_down_misses_no_row(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    gate = tmp_path / "gate"
    thread = start_thread(log_run, run_dir, env, ends=(18, "train"), killed=False, gate=gate)
    wait_until(lambda: server.runs, thread)
    server.stop()
    metrics = run_dir / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and '"iteration": 18, "phase": "train"' in metrics.read_text(), thread)
    server.start()
    gate.touch()
    thread.join()
    log_run(run_dir, env, start=15)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert curves(remote_rows(server)) == curves(local_rows(run_dir))


def test_an_unreachable_server_delays_nothing_and_receives_the_rest_later(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    log_run(run_dir, env, ends=(6, "train"), killed=False)
    server.stop()
    printed = log_run(run_dir, env, start=5, limits={"INIT_SECONDS": 1})
    assert printed.count("Weights & Biases") == 1
    assert "continuing without it; the next start that reaches the server sends the missing rows" in printed
    assert [row["_step"] for row in local_rows(run_dir)] == EVEN
    server.start()
    assert max(row["_step"] for row in remote_rows(server)) < 10
    log_run(run_dir, env, start=20)
    assert remote_rows(server)[4:] == local_rows(run_dir)[4:]
    assert [row["_step"] for row in remote_rows(server)] == EVEN


def test_a_server_that_goes_down_does_not_delay_the_end(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    printed: list[str] = []
    thread = start_thread(lambda: printed.append(log_run(run_dir, env, limits={"FINISH_SECONDS": 1})))
    wait_until(lambda: server.runs, thread)
    server.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert "run the same command again to send the rest" in printed[0]
    server.start()
    log_run(run_dir, env, start=20)
    assert remote_rows(server) == local_rows(run_dir)


def test_an_offline_run_with_kills_is_synced_to_one_history(server, tmp_path):
    """Also synced while it runs, as from the login node of a cluster whose nodes reach no server."""
    no_account, account = environment(tmp_path / "home"), environment(tmp_path / "home", server)
    run_dir = tmp_path / "run"
    log_run(run_dir, no_account, ends=(8, "train"), artifacts="all")
    log_run(run_dir, no_account, start=5, ends=(12, "test"), killed=False, artifacts="all")
    sync(run_dir, account)
    log_run(run_dir, no_account, start=10, ends=(16, "train"), killed=False, artifacts="all")
    printed = log_run(run_dir, no_account, start=15, artifacts="all")
    assert printed.count("Weights & Biases: no API key, logging offline (`wandb sync ") == 1
    assert "Weights & Biases stores for `wandb sync` up to 1 checkpoint of" in printed
    for _ in range(2):
        sync(run_dir, account)
        assert [row["_step"] for row in remote_rows(server)] == EVEN
        assert_all_checkpoints(server)


def test_a_run_that_starts_offline_and_resumes_online_has_one_history(server, tmp_path):
    no_account, account = environment(tmp_path / "home"), environment(tmp_path / "home", server)
    run_dir = tmp_path / "run"
    log_run(run_dir, no_account, ends=(12, "train"), killed=False)
    log_run(run_dir, account, start=10)
    sync(run_dir, account)
    assert remote_rows(server) == local_rows(run_dir)
    printed = log_run(run_dir, no_account, mode="offline", start=20)
    assert "only an online start can send the rest; continuing without it" in printed


def test_a_run_extended_beyond_its_end_is_logged_further(server, tmp_path):
    """The step of the old end has its test already, and W&B accepts no second row for it."""
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    log_run(run_dir, env, stop=10)
    log_run(run_dir, env, start=10, stop=16)
    assert [row["_step"] for row in remote_rows(server)] == list(range(0, 17, 2))


def test_a_run_without_a_key_is_logged_offline(tmp_path):
    run_dir = tmp_path / "run"
    log_run(run_dir, environment(tmp_path / "home"))
    content = inspect(run_dir)
    for name in ("train/loss", "train/lr", "train/lr_x10", "test/accuracy", "test/loss", "train/images_per_second"):
        assert name in content
    assert "train/data_wait" in content
    assert "base_lr" in content  # the resolved config
    assert (run_dir / "train.log").read_text().count("no API key, logging offline") == 1


FINAL = {f"final/{name}" for name in ("balanced_accuracy", "confusion", "calibration", "worst", "best")}


def test_the_last_row_has_the_predictions_of_the_last_test_also_after_a_kill_and_a_resume(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    log_run(run_dir, env, ends=(12, "train"))
    log_run(run_dir, env, start=10, result=True)
    *rows, last = remote_rows(server)
    assert [row["_step"] for row in (*rows, last)] == EVEN
    assert last.keys() >= FINAL
    assert not any(name.startswith("final/") for row in rows for name in row)
    assert {name: value for name, value in last.items() if name[:6] != "final/"} == local_rows(run_dir)[-1]
    (remote,) = server.runs.values()
    assert remote.exit_code == 0
    worst = remote.uploads[last["final/worst"]["path"]].decode()
    assert "<td>Noir" in worst
    assert "data:image/jpeg;base64," in worst
    assert "<th>Bokeh" in remote.uploads[last["final/confusion"]["path"]].decode()
    (table,) = server.artifacts.of_type("run_table")
    rows = json.loads(table.files["final/predictions.table.json"])["data"]
    assert [[*row[:1], *row[2:]] for row in rows] == [
        ["worst", "Noir", "Bokeh", 0.9, 0.1, "00007"],
        ["best", "Bokeh", "Bokeh", 0.97, 0.97, "00009"],
    ]
    assert table.files[rows[0][1]["path"]][:3] == b"\xff\xd8\xff"
    assert remote.summary["final/predictions"]["_type"] == "table-file"
    before = dict(remote.uploads)
    log_run(run_dir, env, start=20)
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert {name for name in before if name.startswith("media/")} <= remote.uploads.keys()


def test_predictions_of_the_last_test_are_stored_offline(tmp_path):
    run_dir = tmp_path / "run"
    log_run(run_dir, environment(tmp_path / "home"), result=True)
    (files,) = run_dir.glob("wandb/offline-run-*/files/media")
    assert {path.name.partition("_")[0] for path in files.rglob("*.html")} == {
        "confusion",
        "calibration",
        "worst",
        "best",
    }
    assert "final/worst" in inspect(run_dir)


def test_an_unreachable_server_means_offline(tmp_path):
    with socket.socket() as unused:  # bound but not listening: refuses every connection
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        settings = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
        printed = log_run(
            tmp_path / "run", environment(tmp_path / "home", None, **settings), limits={"INIT_SECONDS": 1}
        )
    assert printed.count("Weights & Biases failed") == 1
    assert "trying offline" in printed
    assert "train/loss" in inspect(tmp_path / "run")


def test_a_refused_key_means_offline(server, tmp_path):
    printed = log_run(tmp_path / "run", environment(tmp_path / "home", server, WANDB_API_KEY="1" * 40))
    assert printed.count("Weights & Biases failed") == 1
    assert "trying offline" in printed
    assert server.runs == {}


def test_wandb_mode_is_respected(tmp_path):
    printed = log_run(tmp_path / "run", environment(tmp_path / "home", None, WANDB_MODE="offline"))
    assert "no API key" not in printed
    assert list((tmp_path / "run").glob("wandb/offline-run-*"))


OWN = {"WANDB_PROJECT": "styles", "WANDB_NAME": "first", "WANDB_RUN_ID": "mine1234", "WANDB_TAGS": "a,b"}


def test_the_variables_of_wandb_are_heeded_and_a_resumed_run_keeps_its_id(server, tmp_path):
    run_dir = tmp_path / "run"
    env = environment(tmp_path / "home", server, **OWN)
    log_run(run_dir, env, ends=(12, "train"), killed=False)
    printed = log_run(run_dir, {**env, "WANDB_RUN_ID": "other123"}, start=10)
    assert "WANDB_RUN_ID is other123; this run resumes and keeps its id mine1234" in printed
    assert list(server.runs) == ["mine1234"]
    assert curves(remote_rows(server)) == curves(local_rows(run_dir))
    remote = server.runs["mine1234"]
    assert (remote.name, remote.variables["project"], remote.variables["tags"]) == ("first", "styles", ["a", "b"])


def test_the_config_overrides_the_variables_of_wandb():
    environment = wandb.Settings(project="theirs", run_name="theirs")
    assert _name_of(TrackingConfig(project="ours", name="mine"), environment, "runs/a") == ("ours", "mine")
    assert _name_of(TrackingConfig(), environment, "runs/a") == ("theirs", "theirs")
    assert _name_of(TrackingConfig(), wandb.Settings(), "runs/a") == ("stylefinetune", "a")


def test_offline_folders_are_in_wandb_dir_also_after_a_resume(tmp_path):
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    env = environment(tmp_path / "home", None, WANDB_DIR=str(elsewhere), WANDB_MODE="offline")
    log_run(run_dir, env, ends=(12, "train"), killed=False)
    log_run(run_dir, environment(tmp_path / "home", None, WANDB_MODE="offline"), start=10)
    assert len(list(elsewhere.glob("wandb/offline-run-*"))) == 2
    assert not (run_dir / "wandb").exists()


# Logs two iterations; W&B's processes end between them, as when a launcher signals all processes.
LOST_SERVICE = """
import logging, sys, time
import psutil
from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.tracking.dashboards.wandb_run import WandbRun
from tests.run_facts import FACTS

logging.basicConfig(format="%(message)s")
config = Config(run_dir=sys.argv[1], tracking=TrackingConfig(wandb="offline"))
run = WandbRun(config, FACTS, 0, [], logging.getLogger("a"))
run.log({"iteration": 0, "phase": "train", "loss": 1.0})
run.commit()
for process in psutil.Process().children(recursive=True):
    process.terminate()
    process.wait()
for iteration in range(1, int(sys.argv[2])):
    run.log({"iteration": iteration, "phase": "train", "loss": 1.0})
run.finish(failed=True)
print("finished")
"""


@pytest.mark.parametrize("until", [1, 300])
def test_lost_wandb_processes_are_one_line(tmp_path, until):
    (tmp_path / "run").mkdir()
    done = python("-c", LOST_SERVICE, tmp_path / "run", until, env=environment(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (0, "finished\n")
    assert done.stderr.startswith("Weights & Biases failed (")
    assert done.stderr.count("\n") == 1


def inspect(run_dir):
    """Return the only folder of an offline run as `wandb leet inspect` prints it."""
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    read = run(Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file)
    assert read.returncode == 0, read.stderr
    return read.stdout
