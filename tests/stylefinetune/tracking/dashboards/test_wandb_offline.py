import os
import shutil

import pytest

from stylefinetune.tracking.dashboards.wandb_offline import HEADER, continue_offline, mark_synced
from tests.programs import python
from tests.wandb_runs import environment, wait_for_next_second

PROGRAM = """
import os, signal, sys, wandb
folder, first, last, killed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
settings = wandb.Settings(silent=True, console="off")
logged = wandb.init(project="p", id="abcd1234", mode="offline", dir=folder, settings=settings)
for step in range(first, last + 1):
    logged.log({"loss": step, "text": "x" * 300}, step=step, commit=True)
logged.step  # returns when all rows are received
if killed:
    os.kill(os.getpid(), signal.SIGKILL)
logged.finish()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run's folder after three starts: 300 rows in several blocks; 300 more, killed; 3 more, killed."""
    run_dir = tmp_path_factory.mktemp("offline")
    env = environment(run_dir / "home")
    for first, last, *killed in ((0, 299), (300, 599, "killed"), (450, 452, "killed")):
        done = python("-c", PROGRAM, run_dir, first, last, *killed, env=env)
        assert done.returncode == (-9 if killed else 0), done.stderr
        wait_for_next_second()
    # How much a killed start has written is random; make it all but the last row, and the header alone.
    _, truncated, empty = sorted(run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb"))
    os.truncate(truncated, truncated.stat().st_size - 100)
    os.truncate(empty, min(empty.stat().st_size, HEADER))
    return run_dir


def test_the_next_step_follows_the_last_row_on_disk_and_empty_files_are_removed(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "run", symlinks=True)
    complete, truncated, empty = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-abcd1234.wandb"))
    first = continue_offline(tmp_path / "run", "abcd1234")
    assert 300 < first < 600, "a truncated row does not count"
    assert not empty.exists()
    assert continue_offline(tmp_path / "run", "abcd1234") == first
    truncated.unlink()
    assert continue_offline(tmp_path / "run", "abcd1234") == 300
    complete.write_bytes(complete.read_bytes()[:40000])
    assert 0 < continue_offline(tmp_path / "run", "abcd1234") < 300
    assert continue_offline(tmp_path / "run", "another") == 0


def test_reading_stops_at_damaged_bytes(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "run", symlinks=True)
    complete, truncated, _ = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-abcd1234.wandb"))
    truncated.unlink()
    log = bytearray(complete.read_bytes())
    log[32768:] = b"\0" * (len(log) - 32768)  # a power failure may leave zeros
    complete.write_bytes(log)
    assert 0 < continue_offline(tmp_path / "run", "abcd1234") < 300
    complete.write_bytes(bytes(log[:7]) + bytes(range(256)) * 300)
    continue_offline(tmp_path / "run", "abcd1234")


def test_marked_folders_have_the_mark_of_wandb_sync(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "run", symlinks=True)
    mark_synced(tmp_path / "run", "abcd1234")
    marks = list((tmp_path / "run").glob("wandb/offline-run-*/run-abcd1234.wandb.synced"))
    assert len(marks) == 3
