import contextlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from shards.format.index import ShardIndex
from stylefinetune.caffe.solver import find_solver_lists, pack_solver_lists, read_solver
from stylefinetune.config.cli import parse_config
from stylefinetune.errors import UserError
from stylefinetune.train import main
from tests.programs import metrics, train_on


@pytest.fixture
def work(golden, tmp_path, monkeypatch):
    """A copy of the micro net, its pictures and solvers, as the working directory: paths are relative to it."""
    folder = tmp_path / "work"
    shutil.copytree(golden / "micro", folder, ignore=shutil.ignore_patterns("*.npz", "resume", "stat"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("work")
def test_a_solver_becomes_the_keys_of_a_config():
    config = parse_config(["--solver=solver_finetune.prototxt"], read_solver)
    assert config.solver == "solver_finetune.prototxt"
    assert config.run_dir == "finetune/micro_ft"
    optim, train = config.optim, config.train
    assert (optim.base_lr, optim.gamma, optim.stepsize, optim.lr_policy) == (0.001, 0.1, 20, "step")
    assert (optim.momentum, optim.weight_decay, optim.clip_gradients) == (0.9, 0.0005, -1.0)
    assert (train.max_iter, train.test_interval, train.test_iter, train.display) == (60, 20, 10, 1)
    assert (train.seed, train.iter_size, config.checkpoint.snapshot) == (1704, 1, 20)
    assert config.model.widths == (8, 16, 24, 24, 16, 32, 32)
    assert config.data.phase(training=False).crop_size == 75


def test_settings_missing_in_a_solver_have_caffes_defaults_not_ours(work):
    (work / "bare.prototxt").write_text('net: "train_val.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 5')
    config = parse_config(["--solver", "bare.prototxt"], read_solver)
    assert (config.optim.momentum, config.optim.weight_decay) == (0.0, 0.0)
    assert (config.train.display, config.train.test_interval, config.checkpoint.snapshot) == (0, 0, 0)
    assert config.data.test.split == ""
    assert config.run_dir == "bare"


def test_flags_override_the_solver_and_the_solver_overrides_the_config(work):
    (work / "mine.yaml").write_text("optim: {base_lr: 0.5, power: 3}\ntrain: {max_iter: 7}\n")
    flags = ["--train.max_iter=9", "--solver=solver_finetune.prototxt", "--config=mine.yaml"]
    config = parse_config(flags, read_solver)
    assert (config.optim.base_lr, config.train.max_iter) == (0.001, 9)


def test_weights_and_policies_of_a_solver_are_read(work):
    text = (work / "solver_finetune.prototxt").read_text()
    more = text.replace('lr_policy: "step"', 'lr_policy: "multistep" stepvalue: 3 stepvalue: 8')
    (work / "more.prototxt").write_text(more + 'weights: "a.caffemodel" clip_gradients: 35 average_loss: 20\n')
    config = parse_config(["--solver=more.prototxt"], read_solver)
    assert config.weights == "a.caffemodel"
    assert (config.optim.lr_policy, config.optim.stepvalue) == ("multistep", (3, 8))
    assert (config.optim.clip_gradients, config.train.average_loss) == (35.0, 20)


@pytest.mark.parametrize(
    ("addition", "line"),
    [
        ('type: "Adam"', "type Adam isn't supported"),
        ("solver_type: NESTEROV", "solver_type 1 isn't supported"),
        ('regularization_type: "L1"', "regularization_type L1 isn't supported"),
        ("snapshot_after_train: false", "snapshot_after_train False isn't supported"),
        ("test_iter: 3", "test_iter is set 2 times; only one test net is supported"),
        ('train_net: "a"', "train_net a isn't supported"),
        ('test_state { stage: "x" }', "test_state"),
        ("nonsense: 3", r"bad\.prototxt:\d+:\d+.*nonsense"),
    ],
)
def test_an_unsupported_setting_is_an_error_that_names_it(work, addition, line):
    (work / "bad.prototxt").write_text((work / "solver_finetune.prototxt").read_text() + addition)
    with pytest.raises(UserError, match=line):
        parse_config(["--solver=bad.prototxt"], read_solver)


def test_a_missing_net_is_an_error(work):
    text = (work / "solver_finetune.prototxt").read_text()
    (work / "bare.prototxt").write_text(text.replace('net: "train_val.prototxt"', ""))
    with pytest.raises(UserError, match="net is missing"):
        parse_config(["--solver=bare.prototxt"], read_solver)
    (work / "bare.prototxt").write_text(text.replace("train_val", "gone"))
    with pytest.raises(UserError, match=r"gone\.prototxt can't be read"):
        parse_config(["--solver=bare.prototxt"], read_solver)
    (work / "bare.prototxt").write_text(text.replace('"step"', '"cosine"'))
    with pytest.raises(UserError, match=r"optim\.lr_policy.*cosine"):
        parse_config(["--solver=bare.prototxt"], read_solver)


def test_the_lists_are_packed_once_and_again_after_a_change(work):
    config = parse_config(["--solver=solver_finetune.prototxt"], read_solver)
    lists = find_solver_lists(config)
    pack_solver_lists(lists)
    index = ShardIndex.load(lists.shards)
    assert len(index.entries("train")) == 193
    assert len(index.entries("test")) == 150
    assert index.metadata.classes == tuple(map(str, range(20)))
    written = (lists.shards / "index.parquet").stat().st_mtime_ns
    pack_solver_lists(find_solver_lists(config))
    assert (lists.shards / "index.parquet").stat().st_mtime_ns == written
    (work / "train.txt").write_text("".join((work / "train.txt").read_text().splitlines(keepends=True)[:50]))
    changed = find_solver_lists(config)
    assert changed.shards != lists.shards
    pack_solver_lists(changed)
    assert len(ShardIndex.load(changed.shards).entries("train")) == 50


def test_root_folder_is_a_prefix_of_each_path(work):
    text = (work / "train_val.prototxt").read_text()
    (work / "train_val.prototxt").write_text(text.replace('source: "t', 'root_folder: "images/" source: "t'))
    for name in ("train.txt", "test.txt"):
        (work / name).write_text((work / name).read_text().replace("images/", ""))
    lists = find_solver_lists(parse_config(["--solver=solver_finetune.prototxt"], read_solver))
    pack_solver_lists(lists)
    assert len(ShardIndex.load(lists.shards).entries("train")) == 193


def test_a_missing_picture_or_a_label_outside_the_classes_is_an_error(work):
    listed = (work / "train.txt").read_text()
    (work / "train.txt").write_text("images/gone.png 3\n" + listed)
    config = parse_config(["--solver=solver_finetune.prototxt"], read_solver)
    lists = find_solver_lists(config)
    with pytest.raises(UserError, match=r"images/gone\.png, of the net's list, can't be used \(missing_file"):
        pack_solver_lists(lists)
    assert not lists.shards.exists()
    (work / "train.txt").write_text(listed.replace(" 8\n", " 20\n", 1))
    with pytest.raises(UserError, match=r"can't be packed: .*label '20' isn't among the 20 classes"):
        pack_solver_lists(find_solver_lists(config))
    (work / "train.txt").unlink()
    with pytest.raises(UserError, match=r"train\.txt: the net's list can't be read"):
        find_solver_lists(config)


def test_an_unchanged_solver_trains_on_two_ranks_and_resumes(work, golden):
    """Stopped at iteration 20 and resumed, the run ends like Caffe's uninterrupted run."""
    weights = "--weights=finetune/micro_ft_iter_0.caffemodel"
    flags = ["--solver=solver_finetune.prototxt", weights, "--tracking.wandb=disabled", "--data.workers=0"]
    with contextlib.chdir(work):
        main([*flags, "--train.max_iter=20"])
    done = train_on(2, *flags, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "Solving MicroFlickrStyle" in done.stderr
    assert "Restoring previous solver status" in done.stderr
    truth = np.load(golden / "micro" / "finetune" / "golden_finetune.npz")
    run_dir = work / "finetune" / "micro_ft"
    losses = [entry["loss"] for entry in metrics(run_dir, "train")]
    assert np.abs(np.array(losses) - truth["train_loss"]).max() <= 1e-5
    model = load_file(run_dir / "checkpoints" / "iter_60" / "model.safetensors")
    assert np.abs(model["fc8_flickr.weight"] - truth["w60/fc8_flickr.0"]).max() <= 1e-5
    progress = json.loads((run_dir / "checkpoints" / "iter_60" / "progress.json").read_text())
    assert [test["iteration"] for test in progress["tests"]] == [0, 20, 40, 60]
