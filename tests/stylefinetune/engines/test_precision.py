import contextlib
import json
import os
import sys

import pytest
import torch

from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.engines.build import build_engine
from stylefinetune.engines.precision import check_precision, set_tf32
from stylefinetune.errors import UserError
from stylefinetune.train import main
from tests.programs import NARROW, ROOT, metrics, python, run, train_on
from tests.stylefinetune.engines.conftest import ALONE, PROGRAM
from tests.stylefinetune.engines.every_stage import net, slice_of, small, transforms

TF32, BF16, FP16 = (f"--train.precision={name}" for name in ("tf32", "bf16", "fp16"))
CONTIGUOUS = "--train.channels_last=false"
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
        return [results["loss"] for results in metrics(run_dir, "train")], metrics(run_dir, "test")[-1]["accuracy"]

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
    [([BF16], 1e-4, 0.15), ([FP16], 1e-5, 0.15)],
    ids=["bf16", "fp16"],
)
def test_each_setting_trains_nearly_like_fp32(learn, fp32, flags, nearest, farthest):
    losses, accuracy = learn(*flags)
    apart = max(abs(ours - theirs) for ours, theirs in zip(losses, fp32[0], strict=True))
    assert nearest <= apart < farthest  # of 1.39 at the start
    assert accuracy == pytest.approx(fp32[1], abs=2 / 41)


def test_both_memory_formats_have_the_same_losses(learn, fp32):
    """Later, one close call of a max pooling that falls otherwise makes them differ, as on other numbers of ranks."""
    losses, _ = learn(CONTIGUOUS, "--train.max_iter=40")
    assert losses == pytest.approx(fp32[0][:40], abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [TF32, BF16, FP16])
@pytest.mark.parametrize("layout", ["--train.channels_last=true", CONTIGUOUS])
def test_each_precision_trains_on_a_gpu_in_both_memory_formats(learn, fp32, precision, layout):
    losses, accuracy = learn(precision, layout)
    assert losses[-1] == pytest.approx(fp32[0][-1], abs=0.15)
    assert accuracy == pytest.approx(fp32[1], abs=2 / 41)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [TF32, BF16, FP16])
def test_all_settings_together_train_on_a_gpu(learn, fp32, precision):
    losses, accuracy = learn(precision, "--train.compile=true")
    assert losses[-1] == pytest.approx(fp32[0][-1], abs=0.15)
    assert accuracy == pytest.approx(fp32[1], abs=2 / 41)


@pytest.fixture
def tf32_switches():
    """The switches of fp32 products and convolutions on GPUs; they are restored after the test."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_tf32_is_allowed_for_its_own_setting_only(tf32_switches):
    for precision, allowed in (("tf32", True), ("fp32", False), ("tf32", True), ("bf16", False)):
        build_engine(Config(train=TrainConfig(precision=precision)), net(0.5), transforms(ALONE), ALONE, (43, 43))
        assert tf32_switches() == (allowed, allowed)
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")  # readable by other code


def test_tf32_is_refused_without_a_gpu_in_one_line():
    with pytest.raises(UserError, match=r"tf32, which only NVIDIA's GPUs .* there is none here; use fp32 or bf16"):
        check_precision(TrainConfig(precision="tf32"), ALONE.device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("tf32_switches")
def test_on_a_gpu_fp32_is_exact_and_tf32_rounds_its_factors():
    fine = 1 + 2.0**-13  # 14 significant bits
    factor, one = torch.full((256, 256), fine, device="cuda"), torch.eye(256, device="cuda")
    pictures, weight = factor.expand(2, 64, 256, 256).contiguous(), one[:64, :64, None, None].contiguous()
    for precision, product in (("fp32", fine), ("tf32", 1.0)):
        train = TrainConfig(precision=precision)
        check_precision(train, factor.device)
        set_tf32(train)
        assert (factor @ one)[0, 0].item() == product
        convolved = torch.nn.functional.conv2d(pictures, weight)[0, 0, 0, 0].item()
        assert convolved in {fine, product}  # cuDNN chooses; but in fp32 it must be exact


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_compiled_net_trains_like_a_plain_one_on_any_number_of_ranks_and_is_saved_by_the_same_names(tmp_path, ranks):
    done = python(PROGRAM, tmp_path, "compiled", ranks=ranks)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    if "can't" in results:
        pytest.skip(results["can't"])
    assert results["graphs"] > 0, "nothing was compiled"
    assert results["losses"][0] == pytest.approx(results["losses"][1], rel=1e-5)
    assert results["apart"] < 1e-6
    assert results["names"] == ["conv1.weight", "conv1.bias", "fc8_flickr.weight", "fc8_flickr.bias"]


@pytest.mark.slow
def test_a_run_compiles_the_network_once_and_for_the_size_of_its_input(pixel_shards, tmp_path):
    """The check before the run must not make PyTorch take the sizes for variable ones."""
    same = [*NARROW, "--model.dropout=0", f"--data.shards={pixel_shards}", "--train.max_iter=3", "--train.display=1"]
    logs = {"TORCH_LOGS": "recompiles"}
    runs = {
        name: train_on(1, *same, f"--run_dir={tmp_path / name}", f"--train.compile={name}", env=logs)
        for name in ("false", "true")
    }
    if "can't compile here" in runs["true"].stderr:
        pytest.skip(runs["true"].stderr)
    assert [done.returncode for done in runs.values()] == [0, 0], runs["true"].stderr
    assert "Recompiling" not in runs["true"].stderr
    plain, compiled = ([entry["loss"] for entry in metrics(tmp_path / name, "train")] for name in runs)
    assert compiled == pytest.approx(plain, abs=1e-5)


def test_without_a_compiler_the_error_is_one_line_before_the_run_starts(tmp_path):
    without = {"CXX": "no-such-compiler", "PATH": "/nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ended = run(sys.executable, "-m", "stylefinetune.check", "--train.compile=true", env={**os.environ, **without})
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "error" in line]
    assert "train.compile is on, but torch.compile can't compile here: " in line
    assert "no-such-compiler" in line
    assert "or disable train.compile" in line
    assert "Traceback" not in ended.stderr


def test_torch_compile_is_not_called_unless_enabled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("compiled"))
    monkeypatch.setattr(
        torch.compiler, "set_stance", lambda *_: pytest.fail("torch.compile loaded, which takes seconds")
    )
    check_precision(TrainConfig(precision="bf16", channels_last=True), ALONE.device)
    assert small(ALONE).train_step(0, [slice_of(ALONE, 2, seed=0)], 0.001).isfinite()
