"""Locks between processes, on one node and on two, which differ by their host name (a UTS namespace of their own)."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage import file_lock
from shards.storage.file_lock import exclusive_lock
from tests.programs import ROOT

# Locks DIR, or the partition given, until it reads another line. "unlock" releases its flock, which is what another
# node sees on a file system that applies flock within a node only. "publish" renames a file out of its work folder.
HOLDER = """
import fcntl, os, sys
from pathlib import Path
from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage import file_lock
file_lock._HEARTBEAT_SECONDS, file_lock._EXPIRY_SECONDS = 0.1, 1.5
root, partition = Path(sys.argv[1]), sys.argv[2]
try:
    with file_lock.exclusive_lock(root, Partition.parse(partition) if partition else None, "a plan") as work:
        (work / "draft").write_text("mine")
        print("locked", flush=True)
        for line in sys.stdin:
            if line == "unlock\\n":
                for file in os.listdir("/proc/self/fd"):
                    if os.path.realpath("/proc/self/fd/" + file).endswith(".lock"):
                        fcntl.flock(int(file), fcntl.LOCK_UN)
                print("unlocked", flush=True)
            elif line == "publish\\n":
                (work / "draft").replace(root / "published")
                print("published", flush=True)
            else:
                break
except ShardsError as error:
    print(error, flush=True)
    sys.exit(2)
"""
ON_ANOTHER_NODE = ["unshare", "--uts", "--map-root-user", "sh", "-c", 'hostname elsewhere && exec "$0" "$@"']


@pytest.fixture(autouse=True)
def short_heartbeat(monkeypatch):
    monkeypatch.setattr(file_lock, "_HEARTBEAT_SECONDS", 0.1)


@contextlib.contextmanager
def holder(root, partition="", prefix=(), env=None):
    """Start a process that tries to acquire the lock, and yield it with its first line."""
    command = [*prefix, sys.executable, "-c", HOLDER, str(root), partition]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=env, **pipes) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def another_node():
    if subprocess.run([*ON_ANOTHER_NODE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a process can't have another host name here")
    return ON_ANOTHER_NODE


def send(process, command):
    """Send a command to a holder and return its answer."""
    process.stdin.write(command + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def lock_once(root, partition=None, plan="a plan"):
    with exclusive_lock(root, partition, plan):
        pass


def test_the_refusal_names_the_process_that_holds_the_lock(tmp_path):
    with holder(tmp_path) as (first, answer):
        assert answer == "locked"
        with pytest.raises(ShardsError, match=rf"{tmp_path} is in use by process {first.pid} on \S+; wait"):
            lock_once(tmp_path)
        assert send(first, "publish") == "published"
    with exclusive_lock(tmp_path) as work:  # the lock and the files of a killed process are free
        assert list(work.iterdir()) == []
        assert [path for path in work.parent.iterdir() if path.is_dir()] == [work]


@pytest.mark.parametrize(
    ("env", "job"),
    [
        ({"SLURM_JOB_ID": "71"}, "71"),
        ({"SLURM_JOB_ID": "72", "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "3"}, "71_3"),
    ],
)
def test_the_refusal_names_the_slurm_job(tmp_path, monkeypatch, env, job):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    named = f"partition 3/4, is in use by process {os.getpid()} on .*, Slurm job {job};"
    with exclusive_lock(tmp_path, Partition(3, 4)), pytest.raises(ShardsError, match=named):
        lock_once(tmp_path, Partition(3, 4), "")


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ("0/3", [(Partition(1, 3), True), (Partition(0, 3), False), (Partition(1, 4), False), (None, False)]),
        ("", [(Partition(0, 3), False), (None, False)]),
    ],
)
def test_all_of_dir_excludes_its_partitions_and_one_count_another(tmp_path, held, wanted):
    with holder(tmp_path, held) as (first, answer):
        assert answer == "locked"
        before = sorted((tmp_path / ".work").rglob("*"))
        for partition, is_free in wanted:
            refused = pytest.raises(ShardsError, match=f"in use by process {first.pid} on ")
            with contextlib.nullcontext() if is_free else refused:
                lock_once(tmp_path, partition)
            assert sorted((tmp_path / ".work").rglob("*")) == before  # only the holder's files, all of them
        assert send(first, "publish") == "published"
        first.stdin.close()
        assert first.wait(10) == 0
    assert not (tmp_path / ".work").exists()


def test_tasks_at_the_same_time_must_have_the_same_plan(tmp_path):
    with holder(tmp_path, "0/3") as (first, answer):
        assert answer == "locked"
        reason = "which has another number of partitions, list or setting;"
        with pytest.raises(ShardsError, match=rf"process {first.pid} on .*, {reason}"):
            lock_once(tmp_path, Partition(1, 3), "another plan")
    lock_once(tmp_path, Partition(1, 3), "another plan")


def test_a_partition_removes_what_it_left_and_all_of_dir_removes_everything(tmp_path):
    for partition in ("0/3", "1/3"):
        with holder(tmp_path, partition) as (_, answer):
            assert answer == "locked"
    other = tmp_path / ".work" / "1-of-3"
    lock_once(tmp_path, Partition(0, 3))
    assert [path.name for path in other.glob("*/*")] == ["draft"]
    assert not (other.parent / "0-of-3").exists()
    with exclusive_lock(tmp_path):
        assert list(other.glob("*/*")) == []
        assert [path.name for path in other.parent.glob("*.lock")] == ["whole.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_may_have_left_a_longer_record(tmp_path):
    (tmp_path / ".work").mkdir()
    left = {"name": "n" * 300, "host": socket.gethostname(), "process": "process 1234567", "plan": "", "beat": "0"}
    (tmp_path / ".work" / "whole.lock").write_text(json.dumps(left))
    with exclusive_lock(tmp_path), pytest.raises(ShardsError, match=f"is in use by process {os.getpid()} on "):
        lock_once(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_processes_at_once_lose_nothing(tmp_path):
    """Nine processes acquire and release the locks of four partitions and of all of DIR."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom shards.storage.file_lock import exclusive_lock\n"
        "from shards.config.schema import Partition\nfrom shards.errors import ShardsError\n"
        "root, number, count = Path(sys.argv[1]), int(sys.argv[2]), 0\n"
        "for _ in range(20):\n    try:\n"
        "        with exclusive_lock(root, Partition(number % 4, 4) if number < 8 else None) as work:\n"
        "            (root / f'holder-{number % 4 if number < 8 else 8}').open('x').close()\n"
        "            assert number < 8 or len(list(root.glob('holder-*'))) == 1\n"
        "            (work / 'x').write_text('x')\n            count += 1\n"
        "            (root / f'holder-{number % 4 if number < 8 else 8}').unlink()\n"
        "    except ShardsError as error:\n        assert 'is in use by' in str(error), error\nprint(count)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], env=env, stdout=subprocess.PIPE)
        for number in range(9)
    ]
    counts = [int(process.communicate(timeout=120)[0]) for process in started]
    assert [process.returncode for process in started] == [0] * 9
    assert sum(counts) > 9
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """mkdir fails so if another process that releases its lock removes the folder at that moment."""
    mkdir, errors = os.mkdir, [FileExistsError(17, "as if removed meanwhile", "x")]

    def mkdir_that_fails_once(path, *arguments, **options):
        if str(path).endswith(".work") and errors:
            raise errors.pop()
        return mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", mkdir_that_fails_once)
    with exclusive_lock(tmp_path):
        assert errors == []


def test_a_file_in_the_place_of_the_work_folder_is_named(tmp_path):
    (tmp_path / ".work").write_text("")
    with pytest.raises(ShardsError, match=r"can't be made or written \(File exists\)"):
        lock_once(tmp_path)


def test_another_nodes_lock_is_held_while_its_process_lives_whether_or_not_flock_shows_it(
    tmp_path, another_node, monkeypatch
):
    monkeypatch.setattr(file_lock, "_EXPIRY_SECONDS", 60)  # no heartbeat takes as long, even with a busy disk
    with holder(tmp_path, "0/2", prefix=another_node) as (first, answer):
        assert answer == "locked"
        for has_flock in (True, False):
            if not has_flock:
                assert send(first, "unlock") == "unlocked"
            for partition in (Partition(0, 2), None):
                with pytest.raises(ShardsError, match=r"in use by process \d+ on elsewhere"):
                    lock_once(tmp_path, partition)
        assert send(first, "publish") == "published"
        first.stdin.close()
        assert first.wait(10) == 0
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize("has_flock", [True, False], ids=["with its flock", "without its flock"])
@pytest.mark.parametrize("partition", [None, Partition(0, 2)], ids=["all of DIR", "its partition"])
@pytest.mark.usefixtures("clock")
def test_a_suspended_nodes_lock_expires_and_it_publishes_nothing_when_it_resumes(
    tmp_path, another_node, has_flock, partition
):
    with holder(tmp_path, "0/2", prefix=another_node) as (first, answer):
        assert answer == "locked"
        if not has_flock:
            assert send(first, "unlock") == "unlocked"
        first.send_signal(signal.SIGSTOP)  # its flock remains, its heartbeat stops
        os.waitpid(first.pid, os.WUNTRACED)
        with exclusive_lock(tmp_path, partition) as work:
            first.send_signal(signal.SIGCONT)
            error = send(first, "publish")
            assert re.search(rf"process {os.getpid()} on \S+ took over while this process was suspended", error)
            assert first.wait(10) == 2
            assert work.is_dir()
        assert not (tmp_path / "published").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_lost_its_lock_fences_its_own_folder(tmp_path):
    """Two nodes can acquire the lock in the same moment on a file system that applies flock within a node only."""
    with holder(tmp_path) as (first, answer):
        assert answer == "locked"
        lock = tmp_path / ".work" / "whole.lock"
        foreign = lock.read_bytes().replace(b'"host": "', b'"host": "not-')
        end = time.monotonic() + 30
        while any(path.is_dir() for path in (tmp_path / ".work" / "whole").iterdir()) and time.monotonic() < end:
            lock.write_bytes(foreign)  # again, in case a heartbeat has just overwritten it
            time.sleep(0.05)
        assert "took over" in send(first, "publish")


def test_a_lock_that_its_holder_removes_after_it_was_opened_is_not_acquired(tmp_path, monkeypatch):
    try_flock = file_lock._try_flock

    def remove_first(file, kind):
        monkeypatch.setattr(file_lock, "_try_flock", try_flock)
        (tmp_path / ".work" / "whole.lock").unlink()
        return try_flock(file, kind)

    monkeypatch.setattr(file_lock, "_try_flock", remove_first)
    with exclusive_lock(tmp_path), holder(tmp_path) as (_, answer):
        assert f"is in use by process {os.getpid()} on " in answer


def test_a_process_killed_before_it_wrote_its_record_holds_nothing(tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "whole.lock").write_bytes(b"{")
    lock_once(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_unchanged_and_nothing_temporary_remains(tmp_path):
    def fail():
        with exclusive_lock(tmp_path) as work:
            (work / "x").write_text("x")
            raise ShardsError("mine")

    with pytest.raises(ShardsError, match=r"^mine$"):
        fail()
    assert list(tmp_path.iterdir()) == []
