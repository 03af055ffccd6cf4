import _thread
import mmap
import re
import threading

import numpy as np
import pytest
import torch

from stylefinetune.errors import RankError, UserError, memory_refused, ran_out_of_memory, run_command


def command(error):
    def run(arguments):
        assert arguments == ["a"]
        if error:
            raise error

    return run


def test_a_command_that_ends_well_exits_with_0(capsys):
    assert run_command(command(None), ["a"]) == 0
    assert capsys.readouterr().err == ""


def test_a_mistake_is_told_in_one_line_by_rank_0_alone(capsys, monkeypatch):
    assert run_command(command(UserError("no such thing")), ["a"]) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    monkeypatch.setenv("RANK", "1")
    assert run_command(command(UserError("no such thing")), ["a"]) == 2
    assert capsys.readouterr().err == ""


def test_what_one_rank_meets_alone_that_rank_tells(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert run_command(command(RankError("a.tar can't be read")), ["a"]) == 2
    assert capsys.readouterr().err == "error: rank 3: a.tar can't be read\n"


def test_a_file_that_the_system_refuses_is_one_line(capsys):
    error = OSError(28, "No space left on device", "runs/a/metrics.jsonl")
    assert run_command(command(error), ["a"]) == 2
    assert capsys.readouterr().err == "error: rank 0: runs/a/metrics.jsonl: No space left on device\n"


def start_a_thread_of_too_large_a_stack():
    before = threading.stack_size(2**46)
    try:
        _thread.start_new_thread(print, ())
    finally:
        threading.stack_size(before)


@pytest.mark.parametrize(
    "act",
    [
        lambda: torch.empty(2**50, dtype=torch.uint8),
        lambda: np.empty(2**50, np.uint8),
        lambda: bytes(2**62),
        lambda: mmap.mmap(-1, 2**50),
        start_a_thread_of_too_large_a_stack,
    ],
    ids=["torch", "numpy", "python", "system", "a thread"],
)
def test_memory_that_is_refused_is_known_whoever_refuses_it(act):
    with pytest.raises(Exception) as error:  # noqa: PT011 -- each has its own
        act()
    assert ran_out_of_memory(error.value)
    line = memory_refused(error.value)
    assert re.fullmatch(
        r"out of memory \([^\[\]\n]+\); give it more, or lower data.batch_size and raise train.iter_size", line
    )


def test_what_is_no_want_of_memory_is_not_taken_for_it():
    for error in (
        RuntimeError("Connection closed by peer"),
        OSError(28, "No space left on device"),
        ValueError("out of memory"),
    ):
        assert not ran_out_of_memory(error)


def test_ctrl_c_is_no_traceback(capsys):
    assert run_command(command(KeyboardInterrupt()), ["a"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(command(ZeroDivisionError()), ["a"])
