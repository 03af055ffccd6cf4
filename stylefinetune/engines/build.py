"""Builds the engine that the config selects."""

import json
import sys

import torch
from torch import nn

from stylefinetune.config.schema import Config
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.deepspeed_engine import DeepSpeedEngine, check_deepspeed, derive_config
from stylefinetune.engines.engine import Engine
from stylefinetune.engines.precision import check_precision
from stylefinetune.engines.torch_engine import TorchEngine


def check_engine(config: Config) -> None:
    """Check that the engine is installed and supports the config.

    Raises:
        UserError: it is not installed, or does not support a setting.
    """
    if config.engine == "deepspeed":
        check_deepspeed(config)
    check_precision(config.train, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def build_engine(
    config: Config, net: nn.Module, transforms: tuple[Transform, Transform], world: World, input_size: tuple[int, int]
) -> Engine:
    """Return the engine that trains `net`, which may be on any device; run_dir exists; collective.

    The `transforms` from pictures to the network's input are those of training and of testing. `input_size` is the
    (height, width) of the input in training.
    """
    if config.engine == "deepspeed":
        return DeepSpeedEngine(net, transforms, config, world)
    return TorchEngine(net, transforms, config.optim, world, train=config.train, input_size=input_size)


def print_deepspeed_config(config: Config, world: World) -> None:
    """Print DeepSpeed's configuration for these ranks, once.

    Raises:
        UserError: DeepSpeed is not installed, or does not support a setting.
    """
    check_deepspeed(config)
    if world.is_main:
        sys.stdout.write(json.dumps(derive_config(config, world.size), indent=2) + "\n")
