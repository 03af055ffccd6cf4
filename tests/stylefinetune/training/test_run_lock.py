import json
import os
import signal
import socket

import pytest
import torch

from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError, UserError
from stylefinetune.training import run_lock
from stylefinetune.training.run_lock import LOCK_FILE, Holder, RunLock, check_not_in_use, lock_run
from tests.fork_server.client import fork_server

HOST = socket.gethostname()
ALONE = World(0, 1, torch.device("cpu"))
HOLD = """
import sys, time
from pathlib import Path
from stylefinetune.training.run_lock import RunLock
RunLock(Path(sys.argv[1]), print).acquire()
time.sleep(1000)
"""


class Clock:
    """A clock that only `sleep` moves; `action` is called at each sleep."""

    def __init__(self, action=lambda: None):
        self.now = 0.0
        self._action = action

    def sleep(self, seconds):
        self.now += seconds
        self._action()

    def lock(self, run_dir, on_lost=lambda _message: None):
        return RunLock(run_dir, on_lost, clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)


class Elsewhere:
    """A process that holds the lock; a real one, since the kernel releases a lock when its process dies."""

    def __init__(self, run_dir):
        self._program = fork_server().start("-c", HOLD, run_dir)
        self.pid = self._program.pid
        while not ((run_dir / LOCK_FILE).exists() and (run_dir / LOCK_FILE).read_text()):
            assert self._program.poll() is None

    def kill(self):
        self._program.send_signal(signal.SIGKILL)
        self._program.wait(60)


def write_foreign(run_dir, heartbeat=1, **fields):
    """Write the record of a process on another node."""
    run_dir.mkdir(exist_ok=True)
    record = {"host": "n9", "pid": 7, "job": None, "launch": "", "kernel": "another", "heartbeat": heartbeat, **fields}
    (run_dir / LOCK_FILE).write_text(json.dumps(record))


def refused(lock):
    with pytest.raises(UserError) as error:
        lock.acquire()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_lock_names_its_holder_and_is_removed_at_the_end(tmp_path):
    run_dir = tmp_path / "a" / "run"
    with lock_run(run_dir, ALONE):
        record = json.loads((run_dir / LOCK_FILE).read_text())
        assert (record["host"], record["pid"]) == (HOST, os.getpid())
    assert list(run_dir.iterdir()) == []
    with lock_run(run_dir, ALONE):
        pass


def test_a_second_process_is_refused_and_a_killed_holder_is_taken_over_at_once(tmp_path, monkeypatch):
    holder, clock = Elsewhere(tmp_path), Clock()
    assert refused(clock.lock(tmp_path)) == (
        f"run_dir {tmp_path} is in use by process {holder.pid} on {HOST}; wait until it has ended, or use another "
        "--run_dir"
    )
    assert clock.now == pytest.approx(run_lock.WAIT_SECONDS, abs=1)
    monkeypatch.setattr(run_lock, "WAIT_SECONDS", 0.0)
    with pytest.raises(UserError, match=f"is in use by process {holder.pid} on {HOST}"):
        check_not_in_use(tmp_path, ALONE)
    assert (tmp_path / LOCK_FILE).exists()
    holder.kill()
    clock = Clock()
    lock = clock.lock(tmp_path)
    lock.acquire()
    assert (clock.now, json.loads((tmp_path / LOCK_FILE).read_text())["pid"]) == (0, os.getpid())
    lock.release()


def test_a_holder_that_exits_meanwhile_is_awaited(tmp_path):
    holder = Elsewhere(tmp_path)
    clock = Clock(action=lambda: holder.kill() if clock.now == 5 else None)
    lock = clock.lock(tmp_path)
    lock.acquire()
    assert clock.now == 5
    lock.release()


@pytest.mark.parametrize("variables", [{"SLURM_JOB_ID": "7"}, {"TORCHELASTIC_RUN_ID": "none"}], ids=str)
def test_a_predecessor_is_awaited_for_longer(tmp_path, monkeypatch, variables):
    """A job that Slurm requeues, and ranks that torchrun restarts; here both processes have this one as launcher."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    own = Holder.current()
    write_foreign(tmp_path, launch=own.launch)
    beats = iter(range(10**6))
    clock = Clock(action=lambda: write_foreign(tmp_path, next(beats), launch=own.launch))
    refused(clock.lock(tmp_path))
    assert clock.now == pytest.approx(run_lock.PREDECESSOR_SECONDS, abs=1)


def test_a_live_holder_on_another_node_is_refused_with_its_job(tmp_path):
    write_foreign(tmp_path, job="55")
    beats = iter(range(10**6))
    clock = Clock(action=lambda: write_foreign(tmp_path, next(beats), job="55"))
    assert "is in use by process 7 on n9, Slurm job 55;" in refused(clock.lock(tmp_path))


def test_a_silent_holder_on_another_node_is_taken_over_and_ends_when_it_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    lost = []
    former = RunLock(tmp_path, lost.append)
    former._own = Holder("n9", 7, None, "", "another")
    monkeypatch.setattr(former._thread, "start", lambda: None)  # suspended
    former.acquire()
    clock = Clock()
    lock = clock.lock(tmp_path)
    lock.acquire()
    assert clock.now == pytest.approx(run_lock.EXPIRY_SECONDS, abs=1)
    former._renew()
    (message,) = lost
    assert message.startswith(
        f"run_dir {tmp_path} was taken over by process {os.getpid()} on {HOST} while this process"
    )
    former.release()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_file_system_without_locks_is_watched_instead(tmp_path, monkeypatch):
    def flock(_file, _kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    first = Clock()
    holder = first.lock(tmp_path)
    holder.acquire()
    assert first.now == 0
    beats = iter(range(1, 10**6))
    clock = Clock(action=lambda: holder._write(next(beats)))
    assert f"is in use by process {os.getpid()} on {HOST}" in refused(clock.lock(tmp_path))
    silent = Clock()
    lock = silent.lock(tmp_path)
    lock.acquire()
    assert silent.now == pytest.approx(run_lock.EXPIRY_SECONDS, abs=1)
    lock.release()
    holder.release()


def test_the_holder_renews_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.01)
    lock = RunLock(tmp_path, pytest.fail)
    lock.acquire()
    while json.loads((tmp_path / LOCK_FILE).read_text() or '{"heartbeat": 0}')["heartbeat"] < 3:
        pass
    lock.release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3', b"\xff\xfe"])
def test_a_damaged_record_of_a_dead_process_is_replaced(tmp_path, content):
    (tmp_path / LOCK_FILE).write_bytes(content)
    with lock_run(tmp_path, ALONE):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["host"] == HOST


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RankError, match=r"run_dir .*file/run can't be created: Not a directory; use another --run_dir"):
        RunLock(tmp_path / "file" / "run", pytest.fail).acquire()


def test_the_check_of_a_later_node_ignores_the_ranks_that_run_already(tmp_path, monkeypatch):
    check_not_in_use(tmp_path / "missing", ALONE)
    assert not (tmp_path / "missing").exists()
    write_foreign(tmp_path)
    monkeypatch.setenv("NODE_RANK", "1")
    check_not_in_use(tmp_path, ALONE)
    assert "another" in (tmp_path / LOCK_FILE).read_text()
