"""After kills, the same command resumes and ends with the bytes of an uninterrupted run."""

import contextlib
import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from shards.format.index import ShardIndex
from tests.assembly import (
    assert_gone,
    assert_tidy,
    block_picture,
    child_processes,
    serve_pictures,
    stable_outcomes,
    start_assemble,
    statuses,
    tars_and_index,
    unblock_picture,
    wait_for_blocks,
)
from tests.loopback import Answer, LoopbackServer


def test_a_killed_assembly_is_resumed_to_the_bytes_of_an_uninterrupted_one(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    run_assemble(list=path, out=tmp_path / "uninterrupted", rows_per_shard=5)
    out = tmp_path / "interrupted"
    block_picture(server, draw_jpg)
    driver = start_assemble(path, out)
    with driver:
        wait_for_blocks(driver, out, 2)
        children = child_processes(driver)
        os.kill(driver.pid, signal.SIGKILL)
    assert_gone(children)
    assert not (out / "index.parquet").exists()
    unblock_picture(server, draw_jpg)
    run_assemble(list=path, out=out, rows_per_shard=5)
    assert tars_and_index(out) == tars_and_index(tmp_path / "uninterrupted")
    assert stable_outcomes(out) == stable_outcomes(tmp_path / "uninterrupted")
    assert not (out / ".work").exists()


def test_a_killed_daemon_is_one_line_and_the_same_command_resumes(server, draw_jpg, write_list, run_assemble, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    block_picture(server, draw_jpg)
    driver = start_assemble(path, tmp_path / "out")
    with driver:
        wait_for_blocks(driver, tmp_path / "out", 1)
        next(child for child in child_processes(driver) if child.name() == "aria2c").kill()
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 2
    assert error.startswith("error: aria2c has exited")
    assert error.count("\n") == 1
    unblock_picture(server, draw_jpg)
    run_assemble(list=path, rows_per_shard=5)
    assert len(ShardIndex.load(tmp_path / "out").table) == 40


FLAGS = ("--attempts=1", "--timeout=5", "--connections=3", "--per_host=3", "--placeholder_urls=6")
TRANSIENT, PERMANENT = (4, 17), (9, 23)  # pictures that fail
PLACEHOLDERS = range(0, 36, 6)
REPLACING_DRIVER = "driver while a block is replaced"
MAX_DELAYS = {"driver": 1.5, "aria2c": 0.4, "worker": 0.8}  # seconds from the start of a process to its kill


def serve_failing(server: LoopbackServer, draw_jpg, *, is_recovered: bool) -> list[dict]:
    """Serve 36 pictures, each after a short delay; some fail, and some are the same placeholder."""
    rows = serve_pictures(server, draw_jpg, 36)
    for number in range(36):
        picture = draw_jpg(99 if number in PLACEHOLDERS else number)
        server.add(f"/{number}.jpg", Answer(picture, delay=0.1))
    for number in () if is_recovered else TRANSIENT:
        server.add(f"/{number}.jpg", Answer(b"half", transfer="truncated"))
    server.add(f"/{PERMANENT[0]}.jpg", Answer(status=404))
    server.add(f"/{PERMANENT[1]}.jpg", Answer(b"<html>no picture</html>", delay=0.1))
    return rows


def find_victim(driver: "subprocess.Popen[str]", kind: str) -> psutil.Process | None:
    """Wait until the driver has such a process and return it; None if the driver exits before."""
    while driver.poll() is None:
        try:
            main = psutil.Process(driver.pid)
            if kind == "driver":
                return main
            for child in main.children(recursive=True):
                is_daemon = (
                    child.name() == "aria2c" and "--version" not in child.cmdline()
                )  # which the driver runs first
                is_worker = child.name() != "aria2c" and child.ppid() != driver.pid  # a child of the forkserver
                if (kind == "worker" and is_worker) or (kind == "aria2c" and is_daemon):
                    return child
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.001)
    return None


# A sitecustomize that kills the driver, the session leader, at the n-th step of replacing blocks in one process.
KILL_AT_STEP = """
import os, signal, sys

step = int(os.environ["KILL_AT_STEP"])

def count(event, arguments):
    global step
    if event in {"os.rename", "os.remove"} and ".redo" in f"{arguments}":
        step -= 1
        if step == 0:
            os.kill(os.getsid(0), signal.SIGKILL)

sys.addaudithook(count)
"""


class Killer:
    """Run an assembly and kill one of its processes, any number of times.

    Attributes:
        hits: number of kills by kind of process, without those that were too late.
        children: all child processes found.
    """

    def __init__(self, path: str, out: Path, draw: random.Random):
        self.hits: dict[str, int] = {}
        self.children: set[psutil.Process] = set()
        self._path, self._out, self._draw = path, out, draw
        self._hook = out.with_name("hook")
        self._hook.mkdir()
        (self._hook / "sitecustomize.py").write_text(KILL_AT_STEP)

    def kill_once(self, kind: str, *flags: str) -> bool:
        """Kill one process; return False if the command was successful before."""
        environment = {}
        if kind == REPLACING_DRIVER:
            environment = {"PYTHONPATH": str(self._hook), "KILL_AT_STEP": str(self._draw.randint(1, 7))}
        with start_assemble(self._path, self._out, *FLAGS, *flags, **environment) as driver:
            if kind != REPLACING_DRIVER:
                victim = find_victim(driver, kind)
                time.sleep(self._draw.uniform(0, MAX_DELAYS[kind]))
                self._record_children(driver)
                with contextlib.suppress(psutil.NoSuchProcess, AttributeError):  # it has just exited
                    victim.kill()
            _, error = driver.communicate(timeout=60)
        if driver.returncode == 0:
            return False
        self.hits[kind] = self.hits.get(kind, 0) + 1
        assert driver.returncode in {-signal.SIGKILL, 2}
        if driver.returncode == 2:
            assert error.startswith("error: "), error
            assert error.count("\n") == 1
        return True

    def _record_children(self, driver: "subprocess.Popen[str]") -> None:
        try:
            self.children |= set(psutil.Process(driver.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return


@pytest.mark.slow
def test_after_twenty_kills_at_random_moments_the_bytes_are_those_of_an_uninterrupted_run(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    draw = random.Random(20)
    out, uninterrupted = tmp_path / "out", tmp_path / "uninterrupted"
    path = write_list(serve_failing(server, draw_jpg, is_recovered=False))
    settings = {
        "list": path,
        "out": uninterrupted,
        "rows_per_shard": 5,
        "attempts": 1,
        "timeout": 5,
        "placeholder_urls": 6,
    }
    run_assemble(**settings)
    killer = Killer(path, out, draw)
    for kind in draw.sample(["driver"] * 6 + ["aria2c"] * 5 + ["worker"] * 5, 16):
        for _ in range(5):
            if killer.kill_once(kind):
                break
            shutil.rmtree(out)  # the command was successful: start over
    for _ in range(3):
        assert killer.kill_once(REPLACING_DRIVER)
    run_assemble(**settings | {"out": out})
    assert tars_and_index(out) == tars_and_index(uninterrupted)
    assert stable_outcomes(out) == stable_outcomes(uninterrupted)
    assert {row for row, status in statuses(out).items() if status == "placeholder"} == set(PLACEHOLDERS)

    serve_failing(server, draw_jpg, is_recovered=True)
    run_assemble(**settings, retry="failed")
    for kind in draw.sample(["driver", "aria2c", "worker"] + [REPLACING_DRIVER] * 3, 6):
        killer.kill_once(kind, "--retry=failed")
    run_assemble(**settings | {"out": out}, retry="failed")
    assert tars_and_index(out) == tars_and_index(uninterrupted)
    assert stable_outcomes(out) == stable_outcomes(uninterrupted)
    assert sum(killer.hits.values()) >= 20, killer.hits
    assert set(killer.hits) == {"driver", "aria2c", "worker", REPLACING_DRIVER}
    assert_gone(list(killer.children))
    assert_tidy(out)


def test_a_killed_retry_requests_no_row_twice(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = serve_pictures(server, draw_jpg, 20)
    for number in range(20):
        server.add(f"/{number}.jpg", Answer(status=404))
    path, out = write_list(rows), tmp_path / "out"
    run_assemble(list=path, rows_per_shard=5)
    server.requests.clear()
    for number in range(0, 20, 2):
        server.add(f"/{number}.jpg", Answer(draw_jpg(number)))
    block_picture(server, draw_jpg)
    with start_assemble(path, out, "--retry=failed") as driver:
        deadline = time.monotonic() + 60
        while len(rows_since(out)) < 15:  # all blocks except that of picture 7
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill()
    done = rows_since(out)
    unblock_picture(server, draw_jpg)
    server.requests.clear()
    run_assemble(list=path, rows_per_shard=5, retry="failed")
    assert {request.path for request in server.requests} == {f"/{row}.jpg" for row in set(range(20)) - done}
    assert statuses(out) == {row: "kept" if row % 2 == 0 or row == 7 else "not_found" for row in range(20)}
    assert_tidy(out)


def rows_since(out: Path) -> set[int]:
    """Return the rows of committed blocks that the unfinished retry in DIR has requested."""
    try:
        since = dt.datetime.fromisoformat(json.loads((out / "blocks" / "retry.json").read_text())["since"])
        parts = [pq.read_table(path).to_pylist() for path in out.glob("blocks/*.outcomes.parquet")]
    except (OSError, ValueError):  # missing, or just being replaced
        return set()
    return {row["row"] for part in parts for row in part if row["time"] >= since}
