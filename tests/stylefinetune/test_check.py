import shutil

import pytest

from stylefinetune.check import main
from stylefinetune.data.staging.source import shard_source
from stylefinetune.errors import run_command
from tests.programs import NARROW, python
from tests.stylefinetune.data.staging.stores import change, upload


def test_the_folder_of_a_valid_run_is_printed_and_nothing_written(pixel_shards, tmp_path):
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'a run'}"]
    done = python("-m", "stylefinetune.check", *flags)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a run'}\n")
    assert list(tmp_path.iterdir()) == []


def summary_of(flags, capsys):
    assert run_command(main, flags) == 0
    return capsys.readouterr().err.splitlines()


def test_the_summary_shows_data_network_weights_rules_and_plan(pixel_shards, trained, tmp_path, capsys):
    weights = trained / "checkpoints" / "iter_12"
    own = ["--weights", str(weights), "--model.last_layer=fc8_own", "--train.epochs=3"]
    rules = "--optim.layers=[{match: fc8_*, lr_mult: 10}, {match: conv*, lr_mult: 0}]"
    flags = [*NARROW, *own, rules, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}"]
    copied = [*(f"conv{number}" for number in range(1, 6)), "fc6", "fc7"]
    layers = "fc6.weight, fc7.weight", "fc6.bias, fc7.bias"
    convolutions = ", ".join(f"conv{number}.{blob}" for number in range(1, 6) for blob in ("weight", "bias"))
    *lines, plan = summary_of(flags, capsys)
    assert plan.startswith(
        "plan:     41 training pictures of 4 classes; 10 pictures an iteration, 13 iterations (3.17 "
    )
    assert lines == [
        f"data:     {pixel_shards}: train 41, test 11 pictures; 4 classes: Noir, Hazy, Bokeh, Bright",
        f"input:    resized to 48x48, cropped to 43x43, mirrored at random; minus {pixel_shards}/mean.npy",
        "network:  caffenet, 10,916 parameters",
        f"weights:  {weights}: copied: {', '.join(copied)}; random: fc8_own; not used: fc8_flickr",
        f"layers:   frozen: {convolutions}",
        f"layers:   lr 0.01, decay 0.0005: {layers[0]}",
        f"layers:   lr 0.02, decay 0: {layers[1]}",
        "layers:   lr 0.1, decay 0.0005: fc8_own.weight",
        "layers:   lr 0.2, decay 0: fc8_own.bias",
    ]


def test_a_run_on_an_object_store_is_checked_without_a_copy_of_its_shards(memory, pixel_shards, tmp_path, capsys):
    url = upload(pixel_shards, f"{memory}/DIR")
    flags = [*NARROW, f"--data.shards={url}", f"--run_dir={tmp_path / 'run'}"]
    assert f"data:     {url}: train 41, test 11 pictures; 4 classes: Noir, Hazy, Bokeh, Bright" in summary_of(
        flags, capsys
    )
    assert list((tmp_path / "cache").rglob("*.tar")) == []
    change(url, "train/00001.tar", None)
    shard_source.cache_clear()  # as a new process
    assert run_command(main, flags) == 2
    assert f"error: {url}/train/00001.tar is missing; restore it" in capsys.readouterr().err


def test_the_summary_of_a_resumed_run_names_its_checkpoint(trained, pixel_shards, capsys):
    lines = summary_of([*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={trained}"], capsys)
    assert f"weights:  of {trained}/checkpoints/iter_12, from which the run resumes" in lines
    assert " from iteration 12; " in lines[-1]


def test_a_solver_is_checked_without_packing_its_lists(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(golden / "micro")
    flags = ["--solver=solver_scratch.prototxt", f"--run_dir={tmp_path / 'run'}"]
    assert run_command(main, flags) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'run'}\n"
    assert "data:     solver_scratch.prototxt: train 193, test 150 pictures, which the run packs into " in printed.err
    assert run_command(main, [*flags, "--optim.layers={match: nope}"]) == 2
    assert run_command(main, [*flags, "--data.mean_file=gone.npy"]) == 2
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
        (
            ["--data.split=nothing"],
            "has no pictures of split 'nothing'; it has test, train: choose one with --data.spl",
        ),
        (["--data.test.split=val"], "choose one with --data.test.split, or '' to train without tests"),
        (["--optim.layers=[{match: nope}]"], "optim.layers: 'nope' matches no layer; the layers are conv1, "),
        (["--optim.layers=[{match: '*', lr_mult: 0}]"], "optim.layers freezes every layer"),
        (
            ["--model.arch=resnet51", "--model.widths=96,256,384,384,256,4096,4096"],
            "model.arch is 'resnet51', an unknown network (model.display_name is the name in the log); did you mean ",
        ),
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
