import shutil

import pytest

from stylefinetune.errors import UserError
from stylefinetune.report import report


def test_the_page_is_written_into_the_run_or_to_a_given_file(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    report([str(tmp_path / "run")])
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    assert "<h1>run</h1>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    report([str(tmp_path / "run"), str(trained), f"--out={tmp_path / 'both.html'}"])
    assert "<h1>run, trained</h1>" in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_a_mistake_is_one_line(trained, tmp_path):
    with pytest.raises(UserError, match=r"two runs have the same name \(trained, trained\)"):
        report([str(trained), str(trained)])
    with pytest.raises(UserError, match=f"{tmp_path} is not a run's folder"):
        report([str(tmp_path)])
