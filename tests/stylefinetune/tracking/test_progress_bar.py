from stylefinetune.tracking.console import close_log, open_log
from stylefinetune.tracking.progress_bar import BarHandler, ProgressBar


def test_a_line_is_printed_above_the_progress_bar_and_written_to_the_file(tmp_path, capsys):
    bar = ProgressBar(2, 10)
    log = open_log(tmp_path / "train.log", BarHandler(bar))
    log.info("Solving [a] net")
    bar.advance_to(4)
    bar.stop()
    close_log(log)
    printed = capsys.readouterr().err
    assert "] Solving [a] net\n" in printed
    assert "4/10" in printed
    assert (tmp_path / "train.log").read_text().endswith("] Solving [a] net\n")
    assert log.handlers == []
