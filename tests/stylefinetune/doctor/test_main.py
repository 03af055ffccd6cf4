import json

import pytest

from stylefinetune.doctor.__main__ import doctor
from stylefinetune.doctor.finding import Finding
from stylefinetune.errors import UserError, run_command


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """Neither W&B nor Slurm is asked, whatever this machine has."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("PATH", "/nonexistent")


def test_each_check_is_a_line_and_a_failure_is_exit_code_1(tmp_path, pixel_shards, capsys):
    arguments = ["--quick", "--dir", str(tmp_path), "--shards", str(pixel_shards)]
    code = run_command(doctor, arguments)
    printed = capsys.readouterr()
    levels = [line.split()[0] for line in printed.out.splitlines()]
    assert code == int("failed" in levels)
    assert {"Python", "aria2c", "CPUs", "disk", "W&B", "Slurm", "shards"} <= set(printed.out.split())
    code = run_command(doctor, [*arguments, str(tmp_path / "none")])
    assert code == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_json_has_the_same(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "stylefinetune.doctor.__main__.check_shared_memory",
        lambda: Finding("shared memory", "failed", "full", "enlarge it"),
    )
    assert run_command(doctor, ["--quick", "--json", "--dir", str(tmp_path)]) == 1
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["shared memory"] == {
        "name": "shared memory",
        "level": "failed",
        "found": "full",
        "remedy": "enlarge it",
    }
    assert found["Python"]["level"] == "ok"


def test_a_wrong_flag_is_one_line():
    with pytest.raises(UserError, match=r"did you mean --shards\?"):
        doctor(["--shard=x"])
