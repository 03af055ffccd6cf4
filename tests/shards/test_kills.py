"""Killed, interrupted, out of room: run again, the same command ends in the bytes of an unbroken run."""

import contextlib
import datetime as dt
import json
import os
import random
import re
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
    child_processes,
    serve_pictures,
    stable_outcomes,
    start_assemble,
    statuses,
    tars_and_index,
    wait_for_blocks,
)
from tests.loopback import Answer, LoopbackServer

NEVER = 10**9  # requests


def hold(server: LoopbackServer, draw_jpg) -> None:
    """Lets picture 7 wait for ever, so that a driver is still at work when it is killed."""
    server.add("/7.jpg", Answer(draw_jpg(7), after_requests=NEVER))


def release(server: LoopbackServer, draw_jpg) -> None:
    server.add("/7.jpg", Answer(draw_jpg(7)))


def test_killed_and_run_again_the_bytes_are_those_of_an_unbroken_run(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    run_assemble(list=path, out=tmp_path / "unbroken", rows_per_shard=5)
    out = tmp_path / "broken"
    hold(server, draw_jpg)
    driver = start_assemble(path, out)
    with driver:
        wait_for_blocks(driver, out, 2)
        family = child_processes(driver)
        os.kill(driver.pid, signal.SIGKILL)
    assert_gone(family)
    assert not (out / "index.parquet").exists()
    release(server, draw_jpg)
    run_assemble(list=path, out=out, rows_per_shard=5)
    assert tars_and_index(out) == tars_and_index(tmp_path / "unbroken")
    assert stable_outcomes(out) == stable_outcomes(tmp_path / "unbroken")
    assert not (out / ".work").exists()


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(server, draw_jpg, write_list, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    hold(server, draw_jpg)
    driver = start_assemble(path, tmp_path / "out")
    with driver:
        wait_for_blocks(driver, tmp_path / "out", 1)
        family = child_processes(driver)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert error.startswith("stopped; run the same command to continue")
    assert error.count("\n") == 1
    assert_gone(family)
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.parametrize("moment", [0.5, 0.8, 1.2, 1.6, 2.5])
def test_ctrl_c_in_the_first_seconds_is_one_line(server, draw_jpg, write_list, tmp_path, moment):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    hold(server, draw_jpg)
    with start_assemble(path, tmp_path / "out") as driver:
        time.sleep(moment)  # into imports, the forkserver's start, the workers' or the downloads, as the machine has it
        os.killpg(driver.pid, signal.SIGINT)
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130, error
    assert error.startswith("stopped")
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / ".work").exists()


def test_a_killed_daemon_is_one_line_and_the_same_command_goes_on(server, draw_jpg, write_list, run_assemble, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    hold(server, draw_jpg)
    driver = start_assemble(path, tmp_path / "out")
    with driver:
        wait_for_blocks(driver, tmp_path / "out", 1)
        next(child for child in child_processes(driver) if child.name() == "aria2c").kill()
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 2
    assert error.startswith("error: aria2c has exited")
    assert error.count("\n") == 1
    release(server, draw_jpg)
    run_assemble(list=path, rows_per_shard=5)
    assert len(ShardIndex.load(tmp_path / "out").table) == 40


def interrupt_twice(driver: "subprocess.Popen[str]", pause: float) -> str:
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    time.sleep(pause)
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGINT)
    _, error = driver.communicate(timeout=60)
    return error


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.2])
def test_ctrl_c_twice_is_no_more_than_once(server, draw_jpg, write_list, tmp_path, pause):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    hold(server, draw_jpg)
    with start_assemble(path, tmp_path / "out") as driver:
        wait_for_blocks(driver, tmp_path / "out", 1)
        family = child_processes(driver)
        error = interrupt_twice(driver, pause)
    assert driver.returncode == 130, error
    assert error.startswith("stopped; run the same command to continue")
    assert error.count("\n") == 1
    assert_gone(family)
    assert not (tmp_path / "out" / ".work").exists()


FLAGS = ("--attempts=2", "--timeout=5", "--connections=3", "--per_host=3", "--placeholder_urls=6")
PASSING, LASTING = (4, 17), (9, 23)  # pictures that fail, for a while and for good
PLACEHOLDERS = range(0, 36, 6)


def serve_hostile(server: LoopbackServer, draw_jpg, *, is_healed: bool) -> list[dict]:
    """Serves 36 pictures, each after a moment, with some that fail and some that are all the same."""
    rows = serve_pictures(server, draw_jpg, 36)
    for number in range(36):
        picture = draw_jpg(99 if number in PLACEHOLDERS else number)
        server.add(f"/{number}.jpg", Answer(picture, delay=0.2))
    for number in () if is_healed else PASSING:
        server.add(f"/{number}.jpg", Answer(b"half", transfer="truncated"))
    server.add(f"/{LASTING[0]}.jpg", Answer(status=404))
    server.add(f"/{LASTING[1]}.jpg", Answer(b"<html>no picture</html>", delay=0.2))
    return rows


def find_victim(driver: "subprocess.Popen[str]", kind: str, out: Path) -> psutil.Process | None:
    """Waits until the driver has such a process, and returns it; None where the driver has ended before."""
    while driver.poll() is None:
        try:
            me = psutil.Process(driver.pid)
            if kind == "driver":
                return me
            if kind == "driver while it replaces a block" and list(out.glob("blocks/*.redo")):
                return me
            for child in me.children(recursive=True):
                is_daemon = child.name() == "aria2c" and "--version" not in child.cmdline()  # which is asked first
                is_worker = child.name() != "aria2c" and child.ppid() != driver.pid  # the forkserver's own
                if (kind == "worker" and is_worker) or (kind == "aria2c" and is_daemon):
                    return child
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.001)
    return None


class Killer:
    """Runs a command and kills something of it, again and again.

    Attributes:
        hits: how many kills hit, of each kind.
        family: all processes that were seen.
    """

    def __init__(self, path: str, out: Path, draw: random.Random):
        self.hits: dict[str, int] = {}
        self.family: set[psutil.Process] = set()
        self._path, self._out, self._draw = path, out, draw

    def strike(self, kind: str, *flags: str) -> bool:
        """Kills once; returns whether it hit, or else the command ended by itself, well."""
        with start_assemble(self._path, self._out, *FLAGS, *flags) as driver:
            victim = find_victim(driver, kind, self._out)
            if kind != "driver while it replaces a block":
                time.sleep(self._draw.uniform(0, 2.0 if kind == "driver" else 0.8))
            self._note(driver)
            with contextlib.suppress(psutil.NoSuchProcess, AttributeError):  # it has just ended
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

    def _note(self, driver: "subprocess.Popen[str]") -> None:
        try:
            self.family |= set(psutil.Process(driver.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return


def test_twenty_kills_at_random_moments_leave_the_bytes_of_an_unbroken_run(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    draw = random.Random(20)
    out, unbroken = tmp_path / "out", tmp_path / "unbroken"
    path = write_list(serve_hostile(server, draw_jpg, is_healed=False))
    settings = {"list": path, "out": unbroken, "rows_per_shard": 5, "attempts": 2, "timeout": 5, "placeholder_urls": 6}
    run_assemble(**settings)
    killer = Killer(path, out, draw)
    for kind in draw.sample(["driver"] * 6 + ["aria2c"] * 5 + ["worker"] * 5, 16):
        for _ in range(5):
            if killer.strike(kind):
                break
            shutil.rmtree(out)  # it got through: once more, from the start
    for _ in range(3):
        killer.strike("driver while it replaces a block")
    run_assemble(**settings | {"out": out})
    assert tars_and_index(out) == tars_and_index(unbroken)
    assert stable_outcomes(out) == stable_outcomes(unbroken)
    assert {row for row, status in statuses(out).items() if status == "placeholder"} == set(PLACEHOLDERS)

    serve_hostile(server, draw_jpg, is_healed=True)
    run_assemble(**settings, retry="failed")
    for kind in draw.sample(["driver", "aria2c", "worker"] + ["driver while it replaces a block"] * 3, 6):
        killer.strike(kind, "--retry=failed")
    run_assemble(**settings | {"out": out}, retry="failed")
    assert tars_and_index(out) == tars_and_index(unbroken)
    assert stable_outcomes(out) == stable_outcomes(unbroken)
    assert sum(killer.hits.values()) >= 20, killer.hits
    assert set(killer.hits) == {"driver", "aria2c", "worker", "driver while it replaces a block"}
    assert_gone(list(killer.family))
    assert_tidy(out)


def test_a_retry_that_was_killed_asks_for_no_row_twice(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = serve_pictures(server, draw_jpg, 20)
    for number in range(20):
        server.add(f"/{number}.jpg", Answer(status=404))
    path, out = write_list(rows), tmp_path / "out"
    run_assemble(list=path, rows_per_shard=5)
    server.requests.clear()
    for number in range(0, 20, 2):
        server.add(f"/{number}.jpg", Answer(draw_jpg(number)))
    hold(server, draw_jpg)
    with start_assemble(path, out, "--retry=failed") as driver:
        deadline = time.monotonic() + 60
        while len(asked_since(out)) < 15:  # all blocks but the one that waits for picture 7
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill()
    done = asked_since(out)
    release(server, draw_jpg)
    server.requests.clear()
    run_assemble(list=path, rows_per_shard=5, retry="failed")
    assert {seen.path for seen in server.requests} == {f"/{row}.jpg" for row in set(range(20)) - done}
    assert statuses(out) == {row: "kept" if row % 2 == 0 or row == 7 else "not_found" for row in range(20)}
    assert_tidy(out)


def asked_since(out: Path) -> set[int]:
    """Returns the rows that the retry under way in DIR has asked for, as far as their blocks are committed."""
    try:
        since = dt.datetime.fromisoformat(json.loads((out / "blocks" / "retry.json").read_text())["since"])
        parts = [pq.read_table(path).to_pylist() for path in out.glob("blocks/*.outcomes.parquet")]
    except (OSError, ValueError):  # not there yet, or just being replaced
        return set()
    return {row["row"] for part in parts for row in part if row["time"] >= since}


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """Mounts a file system of its own, in memory, where that is allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def serve_large(server: LoopbackServer, draw_jpg, count: int, delay: float = 0.1) -> list[dict]:
    """Serves pictures of 50 KiB each, each after `delay` seconds; what follows a JPEG's end is nobody's business."""
    return [
        {
            "image_url": server.add(f"/{i}.jpg", Answer(draw_jpg(i) + bytes(50 * 1024), delay=delay)),
            "label": 0,
            "_split": "train",
        }
        for i in range(count)
    ]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_once_there_is_room(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    path = write_list(serve_large(server, draw_jpg, 40))
    unbroken, disk = tmp_path / "unbroken", tmp_path / "disk"
    run_assemble(list=path, out=unbroken, rows_per_shard=5, connections=4)
    serve_large(server, draw_jpg, 40, delay=0.6)  # so slow that blocks are committed before the disk is full
    with mounted(disk, "size=1500k"):
        out = disk / "out"
        with start_assemble(path, out, "--connections=2") as driver:
            _, error = driver.communicate(timeout=60)
        assert driver.returncode == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert re.search(r"disk is full|No space left|can't write", error), error
        committed = list(out.glob("blocks/*.outcomes.parquet"))
        assert 0 < len(committed) < 8
        for part in committed:  # what was packed is whole
            shard = out / "train" / f"{part.name[6:11]}.tar"
            assert shard.read_bytes() == (unbroken / "train" / shard.name).read_bytes()
        serve_large(server, draw_jpg, 40)
        server.requests.clear()
        remount(disk, "size=20m")
        run_assemble(list=path, out=out, rows_per_shard=5)
        assert len(server.requests) == 40 - 5 * len(committed)
        assert tars_and_index(out) == tars_and_index(unbroken)
        assert stable_outcomes(out) == stable_outcomes(unbroken)
        assert_tidy(out)


def test_a_disk_that_fills_while_blocks_are_replaced_loses_no_picture(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    rows = serve_large(server, draw_jpg, 20)
    server.add("/3.jpg", Answer(status=404))
    path, disk = write_list(rows), tmp_path / "disk"
    settings = {"list": path, "rows_per_shard": 5, "drop_duplicates": True}
    with mounted(disk, "size=20m"):
        out = disk / "out"
        run_assemble(**settings, out=out)
        before = tars_of(out)
        server.add("/3.jpg", Answer(draw_jpg(3) + bytes(50 * 1024)))
        used = int(
            subprocess.run(["du", "-sk", str(disk)], capture_output=True, text=True, check=True).stdout.split()[0]
        )
        remount(disk, f"size={used + 150}k")  # no room for a second copy of a block
        with start_assemble(path, out, "--drop_duplicates", "--retry=failed") as driver:
            _, error = driver.communicate(timeout=60)
        assert driver.returncode == 2, error
        assert "disk is full" in error
        assert error.count("\n") == 1
        assert tars_of(out) == before
        remount(disk, "size=20m")
        run_assemble(**settings, out=out, retry="failed")
        run_assemble(**settings, out=tmp_path / "unbroken")
        assert tars_and_index(out) == tars_and_index(tmp_path / "unbroken")
        assert_tidy(out)


def tars_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*.tar")}


def test_a_folder_that_cannot_be_written_is_one_line(server, draw_jpg, write_list, run_assemble, tmp_path):
    path, disk = write_list(serve_pictures(server, draw_jpg, 10)), tmp_path / "disk"
    with mounted(disk, "size=20m"):
        run_assemble(list=path, out=disk / "out", rows_per_shard=5)
        remount(disk, "ro")
        for out in (disk / "out", disk / "new"):
            with start_assemble(path, out) as driver:
                _, error = driver.communicate(timeout=60)
            assert driver.returncode == 2
            assert "can't be made or written (Read-only file system)" in error
            assert error.count("\n") == 1
