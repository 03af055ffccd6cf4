"""Ctrl-C ends an assembly with one line, also while it starts and when it is pressed twice."""

import os
import signal
import subprocess
import time

import pytest

from tests.assembly import (
    assert_gone,
    block_picture,
    child_processes,
    serve_pictures,
    start_assemble,
    wait_for_blocks,
    wait_for_imports,
)


def test_ctrl_c_stops_cleanly_and_prints_how_to_resume(server, draw_jpg, write_list, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    block_picture(server, draw_jpg)
    driver = start_assemble(path, tmp_path / "out")
    with driver:
        wait_for_blocks(driver, tmp_path / "out", 1)
        children = child_processes(driver)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130, error
    assert error.startswith("stopped; run the same command to continue")
    assert error.count("\n") == 1
    assert_gone(children)
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.7, 1.1, 2.0])
def test_ctrl_c_in_the_first_seconds_is_one_line(server, draw_jpg, write_list, tmp_path, moment):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    block_picture(server, draw_jpg)
    with start_assemble(path, tmp_path / "out") as driver:
        wait_for_imports(driver)
        # During imports, the start of the forkserver or workers, or downloads, depending on the machine.
        time.sleep(moment)
        os.killpg(driver.pid, signal.SIGINT)
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130, error
    assert error.startswith("stopped")
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / ".work").exists()


def interrupt_twice(driver: "subprocess.Popen[str]", pause: float) -> str:
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    time.sleep(pause)
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGINT)
    _, error = driver.communicate(timeout=60)
    return error


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.2])
def test_a_second_ctrl_c_changes_nothing(server, draw_jpg, write_list, tmp_path, pause):
    path = write_list(serve_pictures(server, draw_jpg, 40))
    block_picture(server, draw_jpg)
    with start_assemble(path, tmp_path / "out") as driver:
        wait_for_blocks(driver, tmp_path / "out", 1)
        children = child_processes(driver)
        error = interrupt_twice(driver, pause)
    assert driver.returncode == 130, error
    assert error.startswith("stopped; run the same command to continue")
    assert error.count("\n") == 1
    assert_gone(children)
    assert not (tmp_path / "out" / ".work").exists()
