import resource
import shutil
import sys

import pytest

from stylefinetune.doctor.limits import check_open_files, check_shared_memory
from tests.programs import run

WITH_LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from stylefinetune.doctor.limits import check_open_files
print(check_open_files())
"""


@pytest.mark.parametrize(
    ("soft", "hard", "level", "remedy"),
    [
        (256, 4096, "failed", "run ulimit -n 4096"),
        (1024, 1024, "warning", "run ulimit -n 1024, and let an administrator raise the hard limit"),
        (4096, 4096, "ok", "4,096 at a time"),
    ],
)
def test_the_limit_of_open_files_of_a_process(soft, hard, level, remedy):
    """In a process of its own, since a limit can't be raised again."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("the hard limit is lower")
    done = run(sys.executable, "-c", WITH_LIMIT, soft, hard)
    assert done.stdout.startswith(level), done.stderr
    assert done.stdout.strip().endswith(remedy)


def test_this_process_has_a_limit():
    assert check_open_files().name == "open files"


@pytest.mark.parametrize(("free", "level"), [(64e6, "failed"), (1e9, "warning"), (8e9, "ok")])
def test_little_shared_memory_is_a_warning_or_fails(monkeypatch, tmp_path, free, level):
    """With stated sizes, since a test can't mount a small /dev/shm."""
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage(int(10e9), int(10e9 - free), int(free)))
    finding = check_shared_memory(tmp_path)
    assert finding.level == level
    assert ("--shm-size" in finding.remedy) == (level != "ok")


def test_a_system_without_it_is_fine(tmp_path):
    assert check_shared_memory(tmp_path / "none").level == "ok"
