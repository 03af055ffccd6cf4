import shutil

import pytest

from stylefinetune.check import main
from stylefinetune.errors import run_command
from tests.programs import NARROW, python


def test_the_folder_of_a_valid_run_is_printed_and_nothing_written(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'a run'}"]
    done = python("-m", "stylefinetune.check", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'a run'}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_solver_is_checked_without_packing_its_lists(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(golden / "micro")
    assert run_command(main, ["--solver=solver_scratch.prototxt", f"--run_dir={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_does_not_need_its_starting_weights(trained, pixel_shards, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={copy}"]
    assert run_command(main, [*flags, "--weights=gone.caffemodel"]) == 0
    assert run_command(main, [*flags, "--resume=none"]) == 2
    assert f"{copy}/checkpoints/iter_12 exists already; remove {copy}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.max_itr=3"], "unknown key train.max_itr; did you mean train.max_iter?"),
        (["--config=nowhere.yaml"], "--config nowhere.yaml can't be read: No such file or directory"),
        (["--solver=nowhere.prototxt"], "nowhere.prototxt"),
        (["--data.shards=nowhere"], "data.shards: "),
        (["--data.crop_size=49"], "data.crop_size is 49; it must be between 0 and the picture's side (48)"),
        (["--data.mean_file=nowhere.npy"], "nowhere.npy: no such mean picture"),
        (["--data.split=nothing"], "has no pictures of split 'nothing'"),
        (["--weights=nowhere.safetensors"], "weights: nowhere.safetensors can't be read"),
        (["--run_dir=pyproject.toml/run"], "run_dir pyproject.toml/run can't be created: "),
        (["--run_dir=/sys/run"], "run_dir /sys/run can't be used: /sys is not writable"),
        (["--resume=nowhere"], "nowhere is neither a checkpoint nor a run's folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(pixel_shards, tmp_path, capsys, flags, message):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}", *flags]
    assert run_command(main, flags) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert printed.out == ""
    assert not (tmp_path / "run").exists()
