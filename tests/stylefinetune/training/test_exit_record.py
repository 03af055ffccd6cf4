import dataclasses
import json

import pytest

from stylefinetune.training.exit_record import ExitRecord

STOPPED = ExitRecord(143, "stopped", "SIGTERM", "stopped by SIGTERM", True, 41, "runs/a/checkpoints/iter_41", 0)


def test_the_file_has_the_fields_as_keys_and_is_read_back(tmp_path):
    STOPPED.write(tmp_path / "run", rank=0)
    assert json.loads((tmp_path / "run" / "exit.json").read_text()) == dataclasses.asdict(STOPPED)
    assert ExitRecord.read(tmp_path / "run") == STOPPED
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["exit.json"]


def test_the_first_record_stays(tmp_path, capsys):
    STOPPED.write(tmp_path, rank=1)
    dataclasses.replace(STOPPED, code=0).write(tmp_path, rank=0)
    assert ExitRecord.read(tmp_path) == STOPPED
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_to_is_a_warning(tmp_path, capsys):
    (tmp_path / ".exit.json.0").mkdir()
    STOPPED.write(tmp_path, rank=0)
    assert capsys.readouterr().err == f"warning: {tmp_path}/exit.json can't be written: Is a directory\n"


@pytest.mark.parametrize("content", [None, "", "{}", '{"code": 0}', "[1]"])
def test_a_file_that_is_not_a_record_is_ignored(tmp_path, content):
    if content is not None:
        (tmp_path / "exit.json").write_text(content)
    assert ExitRecord.read(tmp_path) is None
