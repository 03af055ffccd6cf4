import os
import subprocess
import sys

import pytest

from shards.download import no_fsync

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in no_fsync._ARCHITECTURES, reason="a matter of Linux"
)


def run_unsynced(code, *arguments):
    command = [sys.executable, "-I", "-S", no_fsync.__file__, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_sync_is_called_done_and_not_done(call):
    code = f"import os; os.{call}(999)"  # no such file is open, which a real sync would say
    assert run_unsynced(code).returncode == 0
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Bad file descriptor" in done.stderr


def test_other_calls_are_what_they_were():
    assert "Bad file descriptor" in run_unsynced("import os; os.ftruncate(999, 0)").stderr


def test_arguments_and_the_exit_code_pass_through():
    done = run_unsynced("import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "--c=é")
    assert done.stdout == "['a b', '--c=é']\n"
    assert done.returncode == 7
