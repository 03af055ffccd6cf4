import dataclasses
import importlib.util
import json
import sys

import pytest
import torch

from stylefinetune.config.data import DataConfig
from stylefinetune.config.optim import OptimConfig
from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.engines import build
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.errors import UserError
from tests.programs import run
from tests.stylefinetune.engines.conftest import ALONE
from tests.stylefinetune.engines.every_stage import net, transforms

CLIP_AT_0 = OptimConfig(clip_gradients=0.0)


def test_the_torch_engine_is_the_default_and_needs_no_deepspeed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    build.check_engine(Config())
    assert isinstance(build.build_engine(Config(), net(0.5), transforms(ALONE), ALONE, (43, 43)), TorchEngine)
    with pytest.raises(UserError, match="pip install"):
        build.check_engine(Config(engine="deepspeed"))


def test_settings_unsupported_by_deepspeed_are_accepted_for_the_torch_engine():
    build.check_engine(Config(optim=CLIP_AT_0))
    with pytest.raises(UserError, match=r"optim\.clip_gradients"):
        build.check_engine(Config(optim=CLIP_AT_0, engine="deepspeed"))


def test_a_cuda_graph_is_for_gpus_and_the_torch_engine(monkeypatch):
    graphed = Config(train=TrainConfig(cuda_graph=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train\.cuda_graph is on, .* but there is no GPU here; remove it"):
        build.check_engine(graphed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    build.check_engine(graphed)
    build.check_engine(graphed, ranks=2)
    with pytest.raises(UserError, match=r"train\.cuda_graph is for --engine torch"):
        build.check_engine(dataclasses.replace(graphed, engine="deepspeed"))


@pytest.mark.parametrize(
    "settings",
    [{"data": DataConfig(mixup=0.2)}, {"data": DataConfig(cutmix=1.0)}, {"train": {"class_weights": (1.0, 2.0)}}],
    ids=["mixup", "cutmix", "class weights"],
)
def test_a_cuda_graph_captures_no_numbers_of_a_batch(settings):
    train = TrainConfig(cuda_graph=True, **settings.pop("train", {}))
    with pytest.raises(UserError, match=r"train\.cuda_graph is on, which can't capture data\.mixup, data\.cutmix or"):
        build.check_engine(Config(train=train, **settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"train": {"gradient_compression": "bf16"}}, "gradient_compression bf16"),
        ({"model": "sync"}, "batch_norm sync"),
    ],
)
def test_a_cuda_graph_has_no_sums_over_the_ranks(settings, named, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    train = TrainConfig(cuda_graph=True, **settings.get("train", {}))
    config = Config(train=train, model=ModelConfig(batch_norm=settings.get("model", "eval")))
    build.check_engine(config)
    with pytest.raises(UserError, match=rf"which 2 ranks can't use with .*{named}; remove either"):
        build.check_engine(config, ranks=2)


def test_deepspeed_is_not_imported_with_the_training_command():
    words = "import sys, stylefinetune.train; print('deepspeed' in sys.modules)"
    done = run(sys.executable, "-c", words)
    assert done.stdout == "False\n", done.stderr


def test_only_rank_0_prints_the_configuration_of_deepspeed(capsys):
    build.print_deepspeed_config(Config(), dataclasses.replace(ALONE, rank=1, size=2))
    assert capsys.readouterr().out == ""
    build.print_deepspeed_config(Config(), dataclasses.replace(ALONE, rank=0, size=2))
    results = json.loads(capsys.readouterr().out)
    assert results["train_micro_batch_size_per_gpu"] == 25
    assert results["zero_optimization"]["stage"] == 1
    assert not torch.distributed.is_initialized()
