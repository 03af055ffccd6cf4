import logging
import sys

import pytest

from stylefinetune.tracking.console import GlogFormatter, close_log, open_log


def test_a_line_has_the_prefix_of_glog():
    record = logging.LogRecord("x", logging.INFO, "/a/train.py", 195, "Optimization %s", ("Done.",), None)
    record.created, record.process = 1409264268.338963, 11510
    line = GlogFormatter().format(record)
    assert line.startswith("I08")
    assert line.endswith(":48.338963 11510 train.py:195] Optimization Done.")


def test_a_line_is_printed_and_written_to_the_file(tmp_path, capsys):
    log = open_log(tmp_path / "train.log")
    log.info("Solving [a] net")
    close_log(log)
    line = (tmp_path / "train.log").read_text()
    assert line.endswith("] Solving [a] net\n")
    assert capsys.readouterr().err == line
    assert log.handlers == []


def test_an_error_of_a_signal_handler_goes_on_to_the_caller(tmp_path, monkeypatch):
    def write(_line):
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")

    log = open_log(tmp_path / "train.log")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys.stderr, "write", write)
            with pytest.raises(RuntimeError, match="DataLoader worker"):
                log.info("a line")
    finally:
        close_log(log)
