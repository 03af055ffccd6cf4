import os
import subprocess
import sys

import pytest

from shards.download import no_fsync

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in no_fsync._ARCHITECTURES, reason="seccomp exists on Linux only"
)


def run_without_fsync(code, *arguments):
    command = [sys.executable, "-I", "-S", no_fsync.__file__, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_sync_reports_success_without_being_done(call):
    code = f"import os; os.{call}(999)"  # a real sync would report that no such file is open
    assert run_without_fsync(code).returncode == 0
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Bad file descriptor" in done.stderr


def test_other_system_calls_are_unchanged():
    assert "Bad file descriptor" in run_without_fsync("import os; os.ftruncate(999, 0)").stderr


def test_arguments_and_the_exit_code_are_passed_on():
    done = run_without_fsync("import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "--c=é")
    assert done.stdout == "['a b', '--c=é']\n"
    assert done.returncode == 7
