"""Locks, tried with processes: one machine's, and two that think themselves on two (a UTS namespace of their own)."""

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

# Holds DIR, or the partition given, until it gets a line. "unlock" lets its flock go, as a file system that keeps it
# within a node looks to another one; "publish" renames a file out of its work folder.
HOLDER = """
import fcntl, os, sys
from pathlib import Path
from shards import locks
from shards.config.schema import Partition
from shards.errors import ShardsError
locks._BEAT, locks._SILENCE = 0.1, 1.5
root, partition = Path(sys.argv[1]), sys.argv[2]
try:
    with exclusive_lock(root, Partition.parse(partition) if partition else None, "a plan") as work:
        (work / "draft").write_text("mine")
        print("held", flush=True)
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
def quick(monkeypatch):
    monkeypatch.setattr(file_lock, "_HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(file_lock, "_EXPIRY_SECONDS", 1.5)


@contextlib.contextmanager
def holder(root, partition="", prefix=(), env=None):
    """A process that has tried to take the lock, and its first line."""
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
        pytest.skip("a process may not get a host name of its own here")
    return ON_ANOTHER_NODE


def tell(process, word):
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def hold(root, partition=None, plan="a plan"):
    with exclusive_lock(root, partition, plan):
        pass


def test_a_second_process_is_refused_by_the_firsts_name(tmp_path):
    with holder(tmp_path) as (first, said):
        assert said == "held"
        with pytest.raises(ShardsError, match=rf"{tmp_path} is in use by process {first.pid} on \S+; wait"):
            hold(tmp_path)
        assert tell(first, "publish") == "published"
    with exclusive_lock(tmp_path) as work:  # a killed process's lock and files are free
        assert list(work.iterdir()) == []
        assert [path for path in work.parent.iterdir() if path.is_dir()] == [work]


@pytest.mark.parametrize(
    ("env", "job"),
    [
        ({"SLURM_JOB_ID": "71"}, "71"),
        ({"SLURM_JOB_ID": "72", "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "3"}, "71_3"),
    ],
)
def test_a_refusal_names_the_slurm_job(tmp_path, env, job):
    with holder(tmp_path, "3/4", env=env) as (first, said):
        assert said == "held"
        named = f"partition 3/4, is in use by process {first.pid} on .*, Slurm job {job};"
        with pytest.raises(ShardsError, match=named):
            hold(tmp_path, Partition(3, 4))


@pytest.mark.parametrize(
    ("held", "wanted", "is_free"),
    [
        ("0/3", Partition(1, 3), True),
        ("0/3", Partition(0, 3), False),
        ("0/3", Partition(1, 4), False),
        ("0/3", None, False),
        ("", Partition(0, 3), False),
        ("", None, False),
    ],
)
def test_the_whole_excludes_its_partitions_and_one_count_another(tmp_path, held, wanted, is_free):
    with holder(tmp_path, held) as (first, said):
        assert said == "held"
        before = sorted((tmp_path / ".work").rglob("*"))
        refused = pytest.raises(ShardsError, match=f"in use by process {first.pid} on ")
        with contextlib.nullcontext() if is_free else refused:
            hold(tmp_path, wanted)
        assert sorted((tmp_path / ".work").rglob("*")) == before  # nothing of the first's was touched, nothing is left
        assert tell(first, "publish") == "published"
        first.stdin.close()
        assert first.wait(10) == 0
    assert not (tmp_path / ".work").exists()


def test_tasks_side_by_side_must_have_one_plan(tmp_path):
    with holder(tmp_path, "0/3") as (first, said):
        assert said == "held"
        with pytest.raises(
            ShardsError, match=rf"process {first.pid} on .*, which was given another n, list or setting;"
        ):
            hold(tmp_path, Partition(1, 3), "another plan")
    hold(tmp_path, Partition(1, 3), "another plan")


def test_left_overs_are_a_partitions_own_or_all(tmp_path):
    for partition in ("0/3", "1/3"):
        with holder(tmp_path, partition) as (_, said):
            assert said == "held"
    left = tmp_path / ".work" / "1-of-3"
    hold(tmp_path, Partition(0, 3))
    assert [path.name for path in left.glob("*/*")] == ["draft"]
    assert not (left.parent / "0-of-3").exists()
    with exclusive_lock(tmp_path):
        assert list(left.glob("*/*")) == []
        assert [path.name for path in left.parent.glob("*.lock")] == ["whole.lock"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_wrote_may_be_longer(tmp_path):
    """As where its number had a digit more."""
    (tmp_path / ".work").mkdir()
    left = {"name": "n" * 300, "host": socket.gethostname(), "process": "process 1234567", "plan": "", "beat": "0"}
    (tmp_path / ".work" / "whole.lock").write_text(json.dumps(left))
    with exclusive_lock(tmp_path), pytest.raises(ShardsError, match=f"is in use by process {os.getpid()} on "):
        hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_lose_nothing(tmp_path):
    """Takes and leaves the locks of eight partitions and of the whole from as many processes."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom shards.storage.file_lock import exclusive_lock\nfrom shards.config.schema import Partition\n"
        "from shards.format.index import ShardsError\nroot, number = Path(sys.argv[1]), int(sys.argv[2])\nheld = 0\n"
        "for _ in range(20):\n    try:\n"
        "        with exclusive_lock(root, Partition(number % 4, 4) if number < 8 else None) as work:\n"
        "            (root / f'holder-{number % 4 if number < 8 else 8}').open('x').close()\n"
        "            assert number < 8 or len(list(root.glob('holder-*'))) == 1\n"
        "            (work / 'x').write_text('x')\n            held += 1\n"
        "            (root / f'holder-{number % 4 if number < 8 else 8}').unlink()\n"
        "    except ShardsError as error:\n        assert 'is in use by' in str(error), error\nprint(held)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], env=env, stdout=subprocess.PIPE)
        for number in range(9)
    ]
    held = [int(process.communicate(timeout=60)[0]) for process in started]
    assert [process.returncode for process in started] == [0] * 9
    assert sum(held) > 9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keeps_flock", [True, False], ids=["flock across nodes", "flock within a node"])
def test_another_nodes_process_is_refused_while_this_one_lives(tmp_path, another_node, keeps_flock, monkeypatch):
    monkeypatch.setattr(file_lock, "_EXPIRY_SECONDS", 20)  # which no beat takes, on however busy a disk
    with holder(tmp_path, "0/2", prefix=another_node) as (first, said):
        assert said == "held"
        if not keeps_flock:
            assert tell(first, "unlock") == "unlocked"
        for partition in (Partition(0, 2), None):
            with pytest.raises(ShardsError, match=r"in use by process \d+ on elsewhere"):
                hold(tmp_path, partition)
        assert tell(first, "publish") == "published"
        first.stdin.close()
        assert first.wait(10) == 0
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize("keeps_flock", [True, False], ids=["flock that stays", "flock that went"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_dead_nodes_lock_is_taken_over_and_it_publishes_nothing_when_it_comes_back(
    tmp_path, another_node, keeps_flock, whole
):
    with holder(tmp_path, "0/2", prefix=another_node) as (first, said):
        assert said == "held"
        if not keeps_flock:
            assert tell(first, "unlock") == "unlocked"
        first.send_signal(signal.SIGSTOP)  # its flock stays, its signs of life stop
        with exclusive_lock(tmp_path, None if whole else Partition(0, 2)) as work:
            first.send_signal(signal.SIGCONT)
            last = tell(first, "publish")
            assert re.search(rf"process {os.getpid()} on \S+ took over while this process stood still", last)
            assert first.wait(10) == 2
            assert work.is_dir()
        assert not (tmp_path / "published").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_process_whose_lock_went_bars_its_own_folder(tmp_path):
    """As where two nodes took the lock in the same moment, on a file system whose flock is a node's own."""
    with holder(tmp_path) as (first, said):
        assert said == "held"
        lock = tmp_path / ".work" / "whole.lock"
        lock.write_bytes(lock.read_bytes().replace(b'"host": "', b'"host": "not-'))
        end = time.monotonic() + 10
        while any(path.is_dir() for path in (tmp_path / ".work" / "whole").iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        assert "took over" in tell(first, "publish")


def test_a_lock_that_its_holder_removes_after_it_was_opened_is_not_taken(tmp_path, monkeypatch):
    try_flock = file_lock._try_flock

    def remove_first(file, kind):
        monkeypatch.setattr(file_lock, "_try_flock", try_flock)
        (tmp_path / ".work" / "whole.lock").unlink()
        return try_flock(file, kind)

    monkeypatch.setattr(file_lock, "_try_flock", remove_first)
    with exclusive_lock(tmp_path), holder(tmp_path) as (_, said):
        assert f"is in use by process {os.getpid()} on " in said


def test_a_killed_holder_that_wrote_nothing_yet_holds_nothing(tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "whole.lock").write_bytes(b"{")
    hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_another_error_says_is_left_alone(tmp_path):
    with pytest.raises(ShardsError, match=r"^mine$"), exclusive_lock(tmp_path):
        raise ShardsError("mine")
    assert list(tmp_path.iterdir()) == []


def test_nothing_temporary_is_left(tmp_path):
    with exclusive_lock(tmp_path) as work:
        (work / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []
