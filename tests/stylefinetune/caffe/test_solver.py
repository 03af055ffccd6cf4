import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from stylefinetune.caffe.files import read_caffemodel
from stylefinetune.caffe.solver import read_solver
from stylefinetune.config.cli import parse_config
from stylefinetune.errors import UserError
from stylefinetune.export.__main__ import export
from stylefinetune.train import main
from tests.programs import metrics, train_on


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


def test_fields_without_effect_are_accepted(work):
    text = (work / "solver_finetune.prototxt").read_text()
    more = "device_id: 1 snapshot_format: HDF5 snapshot_diff: true snapshot_after_train: false debug_info: true\n"
    more += 'test_compute_loss: true layer_wise_reduce: false type: "SGD" delta: 1e-3 momentum2: 0.9 rms_decay: 0.5\n'
    more += 'regularization_type: "L2" train_state { level: 1 } test_state { stage: "x" }'
    (work / "more.prototxt").write_text(text.replace("solver_mode: CPU", "solver_mode: GPU") + more)
    plain, other = (read_solver(Path(name)) for name in ("solver_finetune.prototxt", "more.prototxt"))
    assert plain | {"solver": ""} == other | {"solver": ""}


@pytest.mark.parametrize("form", ["train_net", "net_param", "train_net_param", "v1", "bom", "gbk"])
def test_all_forms_of_naming_a_net_give_the_same_config(work, form):
    solver, net = ((work / name).read_text() for name in ("solver_finetune.prototxt", "train_val.prototxt"))
    plain = read_solver(Path("solver_finetune.prototxt"))
    named = 'net: "train_val.prototxt"'
    assert named in solver
    if form == "train_net":
        solver = solver.replace(named, 'train_net: "train_val.prototxt" test_net: "train_val.prototxt"')
    elif form == "net_param":
        solver = solver.replace(named, f"net_param {{ {net} }}")
    elif form == "train_net_param":
        solver = solver.replace(named, f"train_net_param {{ {net} }} test_net_param {{ {net} }}")
    elif form == "v1":
        (work / "train_val.prototxt").write_text(as_v1(net))
    mark = "\ufeff" if form == "bom" else "# 训练\n"
    encoding = "gbk" if form == "gbk" else "utf-8"
    (work / "other.prototxt").write_text(mark + solver, encoding=encoding)
    (work / "train_val.prototxt").write_text(mark + (work / "train_val.prototxt").read_text(), encoding=encoding)
    assert read_solver(Path("other.prototxt")) | {"solver": ""} == plain | {"solver": ""}


def as_v1(net: str) -> str:
    """Return a net in the format of 2014."""
    types = {"ImageData": "IMAGE_DATA", "InnerProduct": "INNER_PRODUCT", "SoftmaxWithLoss": "SOFTMAX_LOSS"}
    net = re.sub(r"^layer \{", "layers {", net, flags=re.MULTILINE)
    net = re.sub(r'type: "([A-Z]\w+)"', lambda found: f"type: {types.get(found[1]) or found[1].upper()}", net)
    return re.sub(r"param \{ lr_mult: (\d+) decay_mult: (\d) \}", r"blobs_lr: \1 weight_decay: \2", net)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("base_lr: 0.001", 'base_lr: 0.001 type: "Adam"', r"bad\.prototxt:4: type Adam isn't supported"),
        ("base_lr: 0.001", "base_lr: 0.001 solver_type: NESTEROV", "4: solver_type NESTEROV isn't supported"),
        ("base_lr: 0.001", 'base_lr: 0.001 regularization_type: "L1"', "4: regularization_type L1 isn't supported"),
        ("test_iter: 10", "test_iter: 10 test_iter: 3", "2: test_iter is set 2 times; only one test net is supported"),
        ("test_iter: 10", 'train_net: "a"', "net and train_net are both set; keep one of them"),
        ("test_iter: 10", 'test_net: "a" test_net: "b"', "2: 2 test nets; only one is supported"),
        ("stepsize: 20", "", "bad.prototxt:5: lr_policy is step, but stepsize is missing or below 1"),
        ('"step"', '"cosine"', "bad.prototxt:5: lr_policy 'cosine' isn't one of Caffe's: fixed, step,"),
        ("base_lr: 0.001", "", "bad.prototxt: base_lr is missing"),
        ("max_iter: 60", "", "bad.prototxt: max_iter is missing"),
        ('lr_policy: "step"', "", "bad.prototxt: lr_policy is missing"),
        ('net: "train_val.prototxt"', "", "bad.prototxt: net is missing"),
        ("train_val", "gone", r"gone\.prototxt can't be read"),
        ("display: 1", "nonsense: 3", r"bad\.prototxt:\d+:\d+.*nonsense"),
        ("iter: 60", "iter: -1", r"bad\.prototxt:9: train\.max_iter is -1"),
    ],
)
def test_an_unsupported_setting_is_an_error_that_names_file_and_line(work, old, new, line):
    text = (work / "solver_finetune.prototxt").read_text()
    assert old in text
    (work / "bad.prototxt").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=line) as error:
        parse_config(["--solver=bad.prototxt"], read_solver)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("step", ("step", 0.0, 20, ())),
        ("sigmoid", ("sigmoid", 0.0, 0, ())),  # Caffe's default of stepsize, the midpoint
        ("inv", ("inv", 0.0, 20000, ())),  # without effect
        ("multistep", ("fixed", 0.0, 20000, ())),  # without stepvalue, Caffe never lowers the rate
    ],
)
def test_missing_numbers_of_a_policy_are_caffes_zeros(work, policy, expected):
    size = "stepsize: 20" if policy == "step" else ""
    (work / "bare.prototxt").write_text(
        f'net: "train_val.prototxt" base_lr: 0.01 lr_policy: "{policy}" max_iter: 5 {size}'
    )
    optim = parse_config(["--solver", "bare.prototxt"], read_solver).optim
    assert (optim.lr_policy, optim.gamma, optim.stepsize, optim.stepvalue) == expected
    assert optim.power == 0.0


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


def test_a_net_with_a_last_layer_of_any_name_is_trained_resumed_and_exported(work, capsys):
    net = (work / "train_val.prototxt").read_text()
    (work / "train_val.prototxt").write_text(net.replace("fc8_flickr", "fc8/style.v2"))
    flags = [
        "--solver=solver_finetune.prototxt",
        "--tracking.wandb=disabled",
        "--data.workers=0",
        "--train.test_iter=1",
    ]
    for max_iter in (2, 3):
        main([*flags, f"--train.max_iter={max_iter}"])
    run = work / "finetune" / "micro_ft"
    export([str(run), "--to=caffemodel", f"--out={work}"])
    text, model, *_ = capsys.readouterr().out.split()
    assert 'name: "fc8/style.v2"' in Path(text).read_text()
    weights = load_file(run / "checkpoints" / "iter_3" / "model.safetensors")
    assert np.array_equal(read_caffemodel(Path(model))["fc8/style.v2"][0], weights["fc8/style%2Ev2.weight"])
    started = load_file(run / "checkpoints" / "iter_2" / "model.safetensors")
    assert not np.array_equal(started["fc8/style%2Ev2.bias"], weights["fc8/style%2Ev2.bias"])
