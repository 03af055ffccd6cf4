import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest

from shards.__main__ import main
from shards.config.schema import AssembleConfig
from shards.tracking import tracker
from shards.tracking.crawl_log import CrawlLog
from shards.tracking.tracker import CrawlTracker, _describe
from tests.assembly import serve_pictures, tars_and_index, wait_for_blocks
from tests.loopback import Answer
from tests.programs import ROOT
from tests.stores import objects_of
from tests.wandb_runs import environment
from tests.wandb_server import WandbServer


class Sent:
    """Stands for W&B's run, and keeps what is sent."""

    def __init__(self):
        self.rows = {}

    def send(self, step, row):
        self.rows[step] = row


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(tracker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tracker.time, "time", lambda: now[0])
    return now


def test_rates_and_outcomes_are_logged_every_ten_seconds(tmp_path, clock):
    run = Sent()
    crawl = CrawlTracker(CrawlLog(tmp_path / "crawl.jsonl"), run)
    crawl.begin({"kept": 100, "gone": 10}, 210)
    crawl.update({"downloaded": 5}, 500)
    assert run.rows == {}
    clock[0] += 10
    crawl.update({"downloaded": 20, "gone": 5}, 2000)
    clock[0] += 20
    crawl.update({"downloaded": 0, "kept": 40, "gone": 5}, 6000)
    same = {"outcomes/kept": 100, "outcomes/gone": 15, "outcomes/downloaded": 20}
    assert run.rows == {
        0: {"time": 1010.0, "files": 135, "bytes": 2000, "remaining": 75}
        | {"files_per_second": 2.5, "bytes_per_second": 200.0}
        | same,
        1: {"time": 1030.0, "files": 155, "bytes": 6000, "remaining": 55}
        | {"files_per_second": 1.0, "bytes_per_second": 200.0}
        | {"outcomes/kept": 140, "outcomes/gone": 15, "outcomes/downloaded": 0},
    }


def test_the_end_has_a_table_and_the_link_rot_once(tmp_path, clock):
    path = tmp_path / "crawl.jsonl"
    counts = {"gone": 1, "kept": 6, "timeout": 2, "corrupt": 1}
    run = Sent()
    crawl = CrawlTracker(CrawlLog(path), run)
    crawl.begin({}, 10)
    clock[0] += 4
    crawl.update({"kept": 6, "gone": 1, "timeout": 3}, 700)
    crawl.finish(counts)
    progress, last = run.rows.values()  # also of less than ten seconds
    assert (progress["files"], progress["files_per_second"]) == (10, 2.5)
    assert list(last["statuses"].items()) == [("kept", 6), ("timeout", 2), ("corrupt", 1), ("gone", 1)]
    shares = {name: value for name, value in last.items() if name.startswith("link_rot/")}
    assert shares == {
        "link_rot/kept": 0.6,
        "link_rot/lost": 0.1,
        "link_rot/no_answer": 0.2,
        "link_rot/unusable": 0.1,
        "link_rot/skipped": 0.0,
    }
    later = Sent()
    crawl = CrawlTracker(CrawlLog(path), later)
    crawl.begin(counts, 10)
    crawl.finish(counts)
    assert later.rows == {}
    crawl.finish({"kept": 8, "corrupt": 1, "gone": 1})  # after a retry
    assert list(later.rows) == [2]
    assert later.rows[2]["outcomes/timeout"] == 0


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (None, "import of wandb halted; None in sys.modules"),  # it isn't installed
        (ModuleType("wandb"), "module 'wandb' has no attribute 'Settings'"),  # W&B's folder of runs
        ("raise TypeError('wrong protobuf')", "wrong protobuf"),
    ],
)
def test_a_package_that_cant_be_imported_is_one_line_before_anything_is_created(
    tmp_path, monkeypatch, capsys, package, reason
):
    monkeypatch.delitem(sys.modules, "shards.tracking.wandb_run", raising=False)
    if isinstance(package, str):
        (tmp_path / "wandb.py").write_text(package)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "wandb", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "wandb", package)
    assert main(["assemble", "--list=http://127.0.0.1:1/a.csv", f"--out={tmp_path / 'd'}", "--wandb=auto"]) == 2
    assert capsys.readouterr().err == (
        f"error: --wandb auto needs the package wandb, which can't be imported ({reason}); install it with: "
        "pip install --upgrade wandb\n"
    )
    assert not (tmp_path / "d").exists()


def test_passwords_are_not_sent(tmp_path):
    config = AssembleConfig(list="https://me:secret@h/list.csv", out=tmp_path, proxy="http://me:secret@proxy:3128")
    assert "secret" not in json.dumps(_describe(config))
    assert _describe(config)["list"] == "https://h/list.csv"


# A crawl that logs a row as often as it can.
PROGRAM = """
import sys
from shards.__main__ import main
from shards.tracking import tracker

tracker._INTERVAL = 0.05
sys.exit(main(["assemble", *sys.argv[1:]]))
"""


def start_crawl(path, out, env):
    command = [sys.executable, "-c", PROGRAM, f"--list={path}", f"--out={out}", "--wandb=auto", "--rows_per_shard=5"]
    return subprocess.Popen(
        [*command, "--workers=1", "--deadline=60"], cwd=ROOT, env=os.environ | env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_a_killed_and_resumed_crawl_is_one_run(server, draw_jpg, write_list, run_assemble, tmp_path):
    opened = []
    rows = serve_pictures(server, draw_jpg, 20)
    rows += [
        {"image_url": server.add(f"/late{number}.jpg", Answer(draw_jpg(number), condition=lambda: bool(opened)))}
        | {"label": 0, "_split": "train"}
        for number in range(3)
    ]
    rows.append({"image_url": server.url + "/gone.jpg", "label": 0, "_split": "train"})
    listed, out, log = write_list(rows), tmp_path / "out", tmp_path / "out" / "crawl.jsonl"
    with WandbServer() as remote:
        env = environment(tmp_path / "home", remote)
        first = start_crawl(listed, out, env)
        wait_for_blocks(first, out, 2)
        seen, deadline = len(log.read_text().splitlines()) if log.exists() else 0, time.monotonic() + 60
        while not (log.exists() and len(log.read_text().splitlines()) > seen + 1):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        opened.append(True)
        again = start_crawl(listed, out, env)
        printed, errors = again.communicate(timeout=120)
        assert again.returncode == 0, printed + errors
        ((run_id, run),) = remote.runs.items()
    assert json.loads((out / "blocks" / "wandb.json").read_text()) == {"id": run_id, "online": True}
    stored = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["_step"] for row in run.history] == list(range(len(stored)))
    assert [row["files"] for row in run.history] == [row["files"] for row in stored]
    assert all(row["files"] + row["remaining"] == 24 for row in stored)
    assert stored[-1]["statuses"] == {"kept": 23, "not_found": 1}
    assert run.summary["outcomes/not_found"] == 1
    assert run.exit_code == 0
    run_assemble(list=listed, out=tmp_path / "without", rows_per_shard=5)
    assert tars_and_index(out) == tars_and_index(tmp_path / "without")
    assert main(["verify", str(out)]) == 0


def test_a_crawl_without_a_server_for_its_log_is_complete(server, draw_jpg, write_list, tmp_path):
    """Also in partitions, each with its run; the id and the rows stay in DIR."""
    listed, out = write_list(serve_pictures(server, draw_jpg, 20)), tmp_path / "out"
    env = environment(tmp_path / "home")
    command = [sys.executable, "-m", "shards", "assemble", f"--list={listed}", f"--out={out}", "--wandb=auto"]
    done = subprocess.run(
        [*command, "--workers=1", "--rows_per_shard=5", "--partition=1/2"], cwd=ROOT, env=os.environ | env,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"no API key, logging offline (`wandb sync {out / 'wandb'}` sends the run later)" in done.stdout
    run_id = json.loads((out / "blocks" / "wandb-1-of-2.json").read_text())["id"]
    (folder,) = out.glob("wandb/offline-run-*")
    assert folder.name.endswith(run_id)
    assert json.loads((out / "crawl-1-of-2.jsonl").read_text().splitlines()[-1])["statuses"] == {"kept": 10}


@pytest.mark.slow  # a server of S3, and a process that connects to it
def test_the_run_of_a_crawl_into_an_object_store_is_known_there(server, draw_jpg, write_list, bucket, tmp_path):
    listed = write_list(serve_pictures(server, draw_jpg, 10))
    env = environment(tmp_path / "home", None, WANDB_DIR=str(tmp_path / "logs"))
    command = [sys.executable, "-m", "shards", "assemble", f"--list={listed}", f"--out={bucket}/d", "--wandb=auto"]
    done = subprocess.run(
        [*command, "--workers=1", f"--stage={tmp_path / 'stage'}"], cwd=ROOT, env=os.environ | env,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_id = json.loads(objects_of(f"{bucket}/d")["blocks/wandb.json"])["id"]
    (folder,) = (tmp_path / "logs").glob("wandb/offline-run-*")
    assert folder.name.endswith(run_id)
