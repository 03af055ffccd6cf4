import contextlib
import dataclasses
import os
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from stylefinetune.config import OptimConfig, TrainConfig
from stylefinetune.engines import switches
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.train import main
from tests.programs import NARROW, ROOT, metrics, run
from tests.stylefinetune.engines.conftest import ALONE
from tests.stylefinetune.engines.every_stage import pack, slice_of, transforms, unpack

BF16, CHANNELS_LAST = "--train.precision=bf16", "--train.channels_last=true"
# The whole sample a batch and no dropout: without, two runs that begin a rounding apart soon have nothing in common.
LEARNS = [
    "--data.batch_size=41",
    "--data.test.split=train",
    "--model.weight_filler_std=[0.005,0.07,0.06,0.1,0.1,0.18,0.18,0.01]",
    "--model.bias_filler_value=[0,0,0,0,0,0,0,0]",
    "--model.dropout=0",
    "--optim.base_lr=0.003",
    "--optim.layers=[]",
    "--optim.stepsize=110",
    "--train.max_iter=160",
    "--train.test_interval=0",
    "--train.display=1",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learn(pixel_shards, tmp_path_factory):
    """Trains on the drawn sample with further flags, and returns the losses and the accuracy at the end."""

    def learn(*flags):
        run_dir = tmp_path_factory.mktemp("switched") / "run"
        with contextlib.chdir(ROOT):
            main([*NARROW, *LEARNS, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}", *flags])
        return [told["loss"] for told in metrics(run_dir, "train")], metrics(run_dir, "test")[-1]["accuracy"]

    return learn


@pytest.fixture(scope="module")
def fp32(learn):
    losses, accuracy = learn()
    assert losses[0] > 1.38
    assert losses[-1] < 0.5
    assert accuracy > 0.8  # of 0.25 for guessing
    return losses, accuracy


@pytest.mark.parametrize(
    ("flags", "nearest", "farthest"),
    [([CHANNELS_LAST], 0, 1e-5), ([BF16], 1e-4, 0.15)],
    ids=["channels_last", "bf16"],
)
def test_a_switch_learns_what_fp32_learns(learn, fp32, flags, nearest, farthest):
    losses, accuracy = learn(*flags)
    apart = max(abs(ours - theirs) for ours, theirs in zip(losses, fp32[0], strict=True))
    assert nearest <= apart < farthest  # of 1.39 at the start
    assert accuracy == pytest.approx(fp32[1], abs=2 / 41)


def small(train):
    """CaffeNet itself takes minutes to compile."""
    torch.manual_seed(0)
    layers = OrderedDict(conv1=nn.Conv2d(3, 8, 11, stride=4), relu1=nn.ReLU(), flatten=nn.Flatten())
    net = nn.Sequential(OrderedDict(layers, fc8_flickr=nn.Linear(8 * 9 * 9, 5)))
    return TorchEngine(net, transforms(ALONE), OptimConfig(), ALONE, train=train, input_size=(43, 43))


def test_what_is_compiled_trains_as_it_did_tests_as_it_did_and_is_saved_by_the_same_names():
    train = TrainConfig(compile=True)
    compiled, plain = small(train), small(dataclasses.replace(train, compile=False))
    before = pack(plain.state())
    for iteration, count in enumerate((6, 6, 0)):
        micro_batches = [dataclasses.replace(slice_of(ALONE, count, seed=iteration), size=6)]
        ours, theirs = (engine.train_step(iteration, micro_batches, 1e-6) for engine in (compiled, plain))
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    ours, theirs = pack(compiled.state()), pack(plain.state())
    assert ours.keys() == theirs.keys() == before.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert not torch.equal(theirs["conv1.weight"], before["conv1.weight"])
    plain.load(unpack(ours))
    assert torch.equal(compiled.forward(slice_of(ALONE, 4, seed=9)), plain.forward(slice_of(ALONE, 4, seed=9)))


def test_where_nothing_can_be_compiled_one_line_says_so_before_the_run_starts(tmp_path):
    without = {"CXX": "no-such-compiler", "PATH": "/nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ended = run(sys.executable, "-m", "stylefinetune.check", "--train.compile=true", env={**os.environ, **without})
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "error" in line]
    assert "train.compile is on, but torch.compile can't compile here: " in line
    assert "no-such-compiler" in line
    assert "leave train.compile out" in line
    assert "Traceback" not in ended.stderr


def test_without_compile_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("compiled"))
    switches.check(TrainConfig(precision="bf16", channels_last=True), ALONE.device)
    assert small(TrainConfig()).train_step(0, [slice_of(ALONE, 2, seed=0)], 0.001).isfinite()
