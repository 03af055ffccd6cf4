import shutil

import pytest
import torch
from safetensors.torch import load_file

from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.engines.build import check_engine
from stylefinetune.errors import UserError
from tests.programs import NARROW, metrics, train_on

BF16 = "--train.gradient_compression=bf16"
STATE = ("model.safetensors", "optimizer.safetensors", "progress.json")


@pytest.fixture
def train(pixel_shards, tmp_path):
    """Trains on some ranks in the folder of this name and returns it."""

    def train(ranks, name, *flags):
        done = train_on(ranks, *NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / name}", *flags)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    return train


def test_the_ranks_add_gradients_in_bf16(train):
    """With a rate of a power of 2 and no decay, the momenta after one iteration have the digits of the gradients."""
    flags = ["--train.max_iter=1", "--optim.base_lr=0.0009765625", "--optim.weight_decay=0", "--optim.layers=[]"]
    for name, compression in (("full", []), ("compressed", [BF16])):
        momenta = load_file(train(2, name, *flags, *compression) / "checkpoints" / "iter_1" / "optimizer.safetensors")
        rounded = [torch.equal(momentum, momentum.bfloat16().float()) for momentum in momenta.values()]
        assert momenta
        assert all(rounded) == bool(compression)


def test_the_losses_stay_close(train):
    flags = ["--train.max_iter=20", "--train.display=1", "--train.test_interval=0", "--model.dropout=0"]
    full, compressed, alone = (
        [entry["loss"] for entry in metrics(train(ranks, name, *flags, *more), "train")]
        for ranks, name, more in ((2, "full", []), (2, "compressed", [BF16]), (1, "alone", [BF16]))
    )
    assert compressed != full
    assert compressed == pytest.approx(full, rel=0.01)
    assert alone == pytest.approx(full, abs=1e-5)  # one rank sends nothing


def test_a_resumed_run_is_bitwise_equal_on_three_ranks(train):
    flags = [BF16, "--train.max_iter=8", "--checkpoint.snapshot=4", "--train.test_interval=0"]
    uninterrupted = train(3, "uninterrupted", *flags)
    resumed = shutil.copytree(uninterrupted, uninterrupted.with_name("resumed"))
    shutil.rmtree(resumed / "checkpoints" / "iter_8")
    train(3, "resumed", *flags)
    for file in STATE:
        expected, actual = (run / "checkpoints" / "iter_8" / file for run in (uninterrupted, resumed))
        assert actual.read_bytes() == expected.read_bytes()


def test_deepspeed_is_refused_in_one_line():
    config = Config(engine="deepspeed", train=TrainConfig(gradient_compression="bf16"))
    message = (
        "train.gradient_compression is bf16, which --engine deepspeed doesn't have; remove it, or use --engine torch"
    )
    with pytest.raises(UserError, match=message):
        check_engine(config)
