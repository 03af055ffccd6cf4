import os
import shutil
import sys

import pytest

from stylefinetune.tracking.wandb_offline import HEADER, continue_offline, mark_synced
from tests.programs import run
from tests.wandb_runs import environment

PROGRAM = """
import os, signal, sys, wandb
folder, first, last, killed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
settings = wandb.Settings(silent=True, console="off")
logged = wandb.init(project="p", id="abcd1234", mode="offline", dir=folder, settings=settings)
for step in range(first, last + 1):
    logged.log({"loss": step, "text": "x" * 300}, step=step, commit=True)
logged.step  # answered once all that was logged has been taken in
if killed:
    os.kill(os.getpid(), signal.SIGKILL)
logged.finish()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run's folder after three starts: 300 rows, of blocks and chunks enough; as many, but killed; 3, and killed."""
    run_dir = tmp_path_factory.mktemp("offline")
    env = environment(run_dir / "home")
    for first, last, *killed in ((0, 299), (300, 599, "killed"), (450, 452, "killed")):
        done = run(sys.executable, "-c", PROGRAM, run_dir, first, last, *killed, env=env)
        assert done.returncode == (-9 if killed else 0), done.stderr
    # How much of its last rows a killed start had written by then is chance; here it is all but the last, and nothing.
    _, torn, empty = sorted(run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb"))
    os.truncate(torn, torn.stat().st_size - 100)
    os.truncate(empty, min(empty.stat().st_size, HEADER))
    return run_dir


def test_it_goes_on_after_the_last_row_on_disk_and_clears_what_holds_nothing(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "run", symlinks=True)
    whole, torn, empty = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-abcd1234.wandb"))
    first = continue_offline(tmp_path / "run", "abcd1234")
    assert 300 < first < 600, "a row that is torn is not there"
    assert not empty.exists()
    assert continue_offline(tmp_path / "run", "abcd1234") == first
    torn.unlink()
    assert continue_offline(tmp_path / "run", "abcd1234") == 300
    whole.write_bytes(whole.read_bytes()[:40000])
    assert 0 < continue_offline(tmp_path / "run", "abcd1234") < 300
    assert continue_offline(tmp_path / "run", "another") == 0


def test_bytes_that_are_no_log_of_its_own_end_the_reading(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "run", symlinks=True)
    whole, torn, _ = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-abcd1234.wandb"))
    torn.unlink()
    body = bytearray(whole.read_bytes())
    body[32768:] = b"\0" * (len(body) - 32768)  # blocks that a power cut left as zeros
    whole.write_bytes(body)
    assert 0 < continue_offline(tmp_path / "run", "abcd1234") < 300
    whole.write_bytes(bytes(body[:7]) + bytes(range(256)) * 300)
    continue_offline(tmp_path / "run", "abcd1234")


def test_what_is_marked_wandbs_own_program_passes_over(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "run", symlinks=True)
    mark_synced(tmp_path / "run", "abcd1234")
    marks = list((tmp_path / "run").glob("wandb/offline-run-*/run-abcd1234.wandb.synced"))
    assert len(marks) == 3
