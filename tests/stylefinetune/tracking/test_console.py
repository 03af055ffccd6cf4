import logging

from stylefinetune.tracking.console import GlogFormatter, ProgressBar, close_log, open_log


def test_a_line_has_the_prefix_of_glog():
    record = logging.LogRecord("x", logging.INFO, "/a/train.py", 195, "Optimization %s", ("Done.",), None)
    record.created, record.process = 1409264268.338963, 11510
    line = GlogFormatter().format(record)
    assert line.startswith("I08")
    assert line.endswith(":48.338963 11510 train.py:195] Optimization Done.")


def test_a_line_is_printed_above_the_progress_bar_and_written_to_the_file(tmp_path, capsys):
    bar = ProgressBar(2, 10)
    log = open_log(tmp_path / "train.log", bar)
    log.info("Solving [a] net")
    bar.advance_to(4)
    bar.stop()
    close_log(log)
    printed = capsys.readouterr().err
    assert "] Solving [a] net\n" in printed
    assert "4/10" in printed
    assert (tmp_path / "train.log").read_text().endswith("] Solving [a] net\n")
    assert log.handlers == []
