"""Checkpoints with random weights, like those of a run with three classes."""

import dataclasses

import torch

from stylefinetune.checkpoint import checkpoint
from stylefinetune.checkpoint.checkpoint import Progress
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, ModelConfig
from stylefinetune.engines.engine import EngineState
from stylefinetune.models import build

WIDTHS = (8, 16, 16, 16, 16, 32, 32)
CONFIG = Config(data=DataConfig(image_size=48, crop_size=43), model=ModelConfig(widths=WIDTHS))
MEANS = tuple(torch.rand(48, 48, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
CLASSES = ["Noir", "Bokeh", "Hazy"]


def progress(iteration):
    return Progress(
        iteration, [1.5], [{"iteration": 0, "accuracy": 0.25, "loss": 3.5}], 1701, CLASSES, "f00d", [48, 48], [43, 43]
    )


def save(run_dir, iteration=5, seed=0, config=CONFIG, scale=1.0):
    net = build.build_model(CONFIG.model, len(CLASSES), [(43, 43)], seed=1)
    torch.manual_seed(seed)
    parameters = {name: scale * torch.randn_like(value) for name, value in net.named_parameters()}
    velocity = {name: torch.randn_like(value) for name, value in parameters.items()}
    state = EngineState(parameters, {}, {"momentum_buffer": velocity}, {"loss_scale": 512.0, "good_steps": 3})
    config = dataclasses.replace(config, run_dir=str(run_dir))
    return state, checkpoint.save_checkpoint(run_dir, progress(iteration), state, config, MEANS)
