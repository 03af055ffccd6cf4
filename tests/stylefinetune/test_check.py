import shutil
import sys

import pytest

from stylefinetune.check import main
from stylefinetune.errors import run_command
from tests.programs import NARROW, run


def test_a_run_that_could_start_is_told_by_its_folder_and_leaves_nothing(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'a run'}"]
    done = run(sys.executable, "-m", "stylefinetune.check", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'a run'}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_solver_whose_lists_are_packed_at_the_start_is_checked_without_packing(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(golden / "micro")
    assert run_command(main, ["--solver=solver_scratch.prototxt", f"--run_dir={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_needs_its_first_weights_no_more(trained, pixel_shards, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={copy}"]
    assert run_command(main, [*flags, "--weights=gone.caffemodel"]) == 0
    assert run_command(main, [*flags, "--resume=none"]) == 2
    assert f"{copy}/checkpoints/iter_12 is there already; remove {copy}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train.max_itr=3"], "unknown key train.max_itr; did you mean train.max_iter?"),
        (["--config=nowhere.yaml"], "--config nowhere.yaml can't be read: No such file or directory"),
        (["--solver=nowhere.prototxt"], "nowhere.prototxt"),
        (["--data.shards=nowhere"], "data.shards: "),
        (["--data.crop_size=49"], "data.crop_size is 49; it must lie between 0 and the picture's side (48)"),
        (["--data.mean_file=nowhere.npy"], "nowhere.npy: no such mean picture"),
        (["--data.split=nothing"], "holds no pictures of split 'nothing'"),
        (["--weights=nowhere.safetensors"], "weights: nowhere.safetensors can't be read"),
        (["--run_dir=pyproject.toml/run"], "run_dir pyproject.toml/run can't be made: "),
        (["--run_dir=/sys/run"], "run_dir /sys/run can't be used: /sys can't be written to"),
        (["--resume=nowhere"], "nowhere is neither a checkpoint nor a run's folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(pixel_shards, tmp_path, capsys, flags, said):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}", *flags]
    assert run_command(main, flags) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert told.out == ""
    assert not (tmp_path / "run").exists()
