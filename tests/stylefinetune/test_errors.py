import _thread
import mmap
import re
import sys
import threading

import numpy as np
import pytest
import torch

from stylefinetune.errors import (
    RankError,
    UserError,
    is_out_of_memory,
    out_of_memory_message,
    run_command,
    worker_error,
    write_error,
)
from tests.programs import python, run


def command(error):
    def run(arguments):
        assert arguments == ["a"]
        if error:
            raise error

    return run


def test_a_command_that_succeeds_exits_with_0(capsys):
    assert run_command(command(None), ["a"]) == 0
    assert capsys.readouterr().err == ""


def test_rank_0_alone_prints_a_user_error(capsys, monkeypatch):
    assert run_command(command(UserError("no such thing")), ["a"]) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    monkeypatch.setenv("RANK", "1")
    assert run_command(command(UserError("no such thing")), ["a"]) == 2
    assert capsys.readouterr().err == ""


def test_the_rank_that_raises_it_prints_a_rank_error(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert run_command(command(RankError("a.tar can't be read")), ["a"]) == 2
    assert capsys.readouterr().err == "error: rank 3: a.tar can't be read\n"


def test_an_os_error_about_a_file_is_one_line(capsys):
    error = OSError(28, "No space left on device", "runs/a/metrics.jsonl")
    assert run_command(command(error), ["a"]) == 2
    assert capsys.readouterr().err == "error: rank 0: runs/a/metrics.jsonl: No space left on device\n"


def test_a_file_that_cannot_be_written_has_a_remedy_for_its_reason(tmp_path):
    assert str(write_error(tmp_path, "No space left on device")).endswith(
        "; free some disk space, then run the same command again"
    )
    for reason in ("Is a directory", "Permission denied", "Read-only file system"):
        assert str(write_error(tmp_path, reason)).endswith(f"({reason}); choose a place where this file can be written")


def start_a_thread_with_too_large_a_stack():
    previous = threading.stack_size(2**46)
    try:
        _thread.start_new_thread(print, ())
    finally:
        threading.stack_size(previous)


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(2**50, dtype=torch.uint8),
        lambda: np.empty(2**50, np.uint8),
        lambda: bytes(2**62),
        lambda: mmap.mmap(-1, 2**50),
        start_a_thread_with_too_large_a_stack,
    ],
    ids=["torch", "numpy", "python", "system", "a thread"],
)
def test_every_kind_of_out_of_memory_error_is_recognized(allocate):
    with pytest.raises(Exception) as error:  # noqa: PT011 -- of different types
        allocate()
    assert is_out_of_memory(error.value)
    line = out_of_memory_message(error.value)
    assert re.fullmatch(
        r"out of memory \([^\[\]\n]+\); provide more memory, or lower data.batch_size and raise train.iter_size", line
    )


CONVOLVE = """
import resource, torch
from stylefinetune.errors import is_out_of_memory
layer, pictures = torch.nn.Conv2d(3, 8, 7), torch.zeros(2, 3, 31, 31)
resource.setrlimit(resource.RLIMIT_AS, (0, resource.RLIM_INFINITY))
try:
    layer(pictures)
except RuntimeError as error:
    print(is_out_of_memory(error))
"""


def test_onednn_without_memory_for_its_code_is_out_of_memory():
    # A process, since oneDNN computes nothing any more after such an error.
    assert python("-c", CONVOLVE).stdout == "True\n"


def test_other_errors_are_not_out_of_memory():
    for error in (
        RuntimeError("could not create a primitive descriptor for a convolution"),
        RuntimeError("Connection closed by peer"),
        OSError(28, "No space left on device"),
        ValueError("out of memory"),
    ):
        assert not is_out_of_memory(error)


def test_ctrl_c_prints_no_traceback(capsys):
    assert run_command(command(KeyboardInterrupt()), ["a"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_character_that_the_terminal_lacks_is_printed_as_an_escape():
    """In a new interpreter, which reads PYTHONIOENCODING when it starts."""
    program = "from stylefinetune.errors import run_command; run_command(lambda words: print(*words), ['Été'])"
    done = run(sys.executable, "-c", program, env={"PYTHONIOENCODING": "ascii"})
    assert (done.stdout, done.stderr) == ("\\xc9t\\xe9\n", "")


def test_the_error_of_a_worker_names_the_remedy():
    full = worker_error(RuntimeError("Caught RuntimeError\nTraceback\nRuntimeError: no: No space left on device (28)"))
    assert str(full) == (
        "a decoding process has failed: RuntimeError: no: No space left on device (28); enlarge /dev/shm, or lower "
        "data.workers"
    )
    killed = worker_error(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert (full.code, killed.code) == (2, 4)


def test_a_rank_that_is_not_a_number_does_not_hide_the_error(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "x")
    assert run_command(command(RankError("RANK is x")), ["a"]) == 2
    assert capsys.readouterr().err == "error: rank x: RANK is x\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(command(ZeroDivisionError()), ["a"])
