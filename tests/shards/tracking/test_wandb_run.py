import json
import signal

import pytest

from tests.programs import python
from tests.wandb_runs import environment, sync, wait_for_next_second
from tests.wandb_server import WandbServer

# Logs rows up to a number, after those that were logged before, and then finishes, fails or is killed.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from shards.tracking import wandb_run
from shards.tracking.crawl_log import CrawlLog

folder, mode, count, end, limits = json.loads(sys.argv[1])
for name, seconds in limits.items():
    setattr(wandb_run, name, seconds)
log = CrawlLog(Path(folder, "crawl.jsonl"))
name = wandb_run.RunName(Path(folder, "wandb.json"), None, "mine", "all", Path(folder))
run = wandb_run.WandbRun(name, mode, {"seed": 7}, log.rows, print)
for step in range(len(log.rows), count):
    row = {"time": 1000.0 + step, "files": 10 * step, "outcomes/kept": step}
    log.append(row | {"statuses": {"kept": step, "<gone>": 1}} if step % 5 == 4 else row)
    run.send(step, log.rows[-1])
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
run.finish(failed=end == "failed")
"""


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


def log_rows(folder, env, count, *, mode="auto", end="", limits=None):
    """Log rows up to a number in a separate process, and return what it prints."""
    folder.mkdir(exist_ok=True)
    done = python("-c", PROGRAM, json.dumps([str(folder), mode, count, end, limits or {}]), env=env)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    assert done.stderr == ""
    wait_for_next_second()
    return done.stdout


def assert_complete(server, folder):
    """Check that the only run on the server has the rows of the file, with a page for each table."""
    (remote,) = server.runs.values()
    rows = [json.loads(line) for line in (folder / "crawl.jsonl").read_text().splitlines()]
    found = [
        {"time": row["_timestamp"]} | {name: row[name] for name in row if name[0] != "_"} for row in remote.history
    ]
    for row, listed in zip(found, rows, strict=True):
        assert ("statuses" in row) == ("statuses" in listed)
        if "statuses" in row:
            page = remote.uploads[row.pop("statuses")["path"]].decode()
            counts = listed.pop("statuses")
            assert f"<td>kept<td>{counts['kept']}<td>" in page
            assert "<td>&lt;gone&gt;<td>1<td>" in page
        assert row == listed
    assert [row["_step"] for row in remote.history] == list(range(len(rows)))


def test_a_killed_and_resumed_run_has_one_history(server, tmp_path):
    env, folder = environment(tmp_path / "home", server), tmp_path / "d"
    assert "Weights & Biases: http://127.0.0.1:" in log_rows(folder, env, 3, end="killed")
    log_rows(folder, env, 7, end="failed")
    log_rows(folder, env, 12)
    assert_complete(server, folder)
    (remote,) = server.runs.values()
    assert remote.exit_code == 0
    assert remote.name == "mine"
    assert remote.config["seed"]["value"] == 7
    assert {name: remote.variables[name] for name in ("groupName", "jobType", "project")} == {
        "groupName": "all",
        "jobType": "crawl",
        "project": "stylefinetune",
    }


def test_an_offline_run_with_a_kill_is_synced_to_one_history(server, tmp_path):
    no_account, account = environment(tmp_path / "home"), environment(tmp_path / "home", server)
    folder = tmp_path / "d"
    log_rows(folder, no_account, 3, end="killed")
    printed = log_rows(folder, no_account, 8)
    assert printed.count("no API key, logging offline (`wandb sync ") == 1
    sync(folder, account)
    assert_complete(server, folder)
    log_rows(folder, no_account, 10)
    sync(folder, account)
    assert_complete(server, folder)


@pytest.mark.slow  # six processes with W&B
def test_a_run_that_goes_online_gets_all_rows_there_and_stays_online(server, tmp_path):
    no_account, account = environment(tmp_path / "home"), environment(tmp_path / "home", server)
    folder = tmp_path / "d"
    log_rows(folder, no_account, 3)
    log_rows(folder, account, 6)
    assert_complete(server, folder)
    server.stop()
    printed = log_rows(folder, account, 9, limits={"INIT_SECONDS": 1})
    assert printed.count("Weights & Biases failed") == 1
    assert "continuing without it; the next start sends the missing rows" in printed
    assert "only an online start can send the rest" in log_rows(folder, no_account, 10, mode="offline")
    server.start()
    sync(folder, account)
    log_rows(folder, account, 10)
    assert_complete(server, folder)


def test_an_unreachable_server_means_offline(tmp_path):
    with WandbServer() as server:
        account = server.account  # of a server that is then down
    folder = tmp_path / "d"
    printed = log_rows(folder, environment(tmp_path / "home") | account, 3, limits={"INIT_SECONDS": 1})
    assert printed.count("Weights & Biases failed") == 1
    assert "trying offline" in printed
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_wandb_mode_disabled_is_respected(tmp_path):
    folder = tmp_path / "d"
    assert log_rows(folder, environment(tmp_path / "home", None, WANDB_MODE="disabled"), 3) == ""
    assert not (folder / "wandb").exists()


# Logs a row after W&B's processes have ended, as when a launcher signals all processes.
LOST_SERVICE = """
import sys
from pathlib import Path
import psutil
from shards.tracking.wandb_run import RunName, WandbRun

run = WandbRun(RunName(Path(sys.argv[1], "wandb.json"), None, "a", None, Path(sys.argv[1])), "offline", {}, [], print)
for process in psutil.Process().children(recursive=True):
    process.terminate()
    process.wait()
for step in range(300):
    run.send(step, {"files": step})
run.finish(failed=False)
print("finished")
"""


def test_lost_wandb_processes_are_one_line(tmp_path):
    done = python("-c", LOST_SERVICE, tmp_path, env=environment(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (0, "")
    warning, finished = done.stdout.splitlines()
    assert warning.startswith("warning: Weights & Biases failed (")
    assert finished == "finished"
