"""The recipes in configs/finetune: each is valid, fits its network, and says what it costs and how it is started."""

import contextlib

import pytest
import torch

from stylefinetune.check import main
from stylefinetune.config.cli import load_config
from stylefinetune.errors import run_command
from stylefinetune.models.build import build_model
from stylefinetune.optim.param_groups import param_groups
from stylefinetune.training.plan.resolve import resolve_layers
from tests.programs import ROOT

RECIPES = sorted((ROOT / "configs" / "finetune").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_rules_of_every_recipe_match_layers_of_its_network(recipe):
    config = load_config(recipe)
    with torch.device("meta"):
        net = build_model(config.model, 7, [(227, 227) if config.model.arch == "caffenet" else (224, 224)] * 2, 0)
    groups = param_groups(net, resolve_layers(config, net).optim)
    assert len({group["lr_mult"] for group in groups}) > 1  # the classifier learns faster than the rest, or alone


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_a_run_of_a_recipe_could_start_on_other_pictures(name, pixel_shards, tmp_path, capsys):
    recipe = ROOT / "configs" / "finetune" / f"{name}.yaml"
    flags = [
        "--config",
        str(recipe),
        f"--data.shards={pixel_shards}",
        "--weights=null",
        f"--run_dir={tmp_path / 'run'}",
    ]
    with contextlib.chdir(ROOT):
        assert run_command(main, [*flags, "--data.image_size=48", "--data.crop_size=32"]) == 0
    err = capsys.readouterr().err
    assert f"{name}, " in err
    assert "41 training pictures of 4 classes" in err
