"""Makes the engine that the config asks for."""

import json
import sys

import torch
from torch import nn

from stylefinetune.config.schema import Config
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.deepspeed_engine import DeepSpeedEngine, check_deepspeed, derive
from stylefinetune.engines.engine import Engine
from stylefinetune.engines.precision import check_precision
from stylefinetune.engines.torch_engine import TorchEngine


def check_engine(config: Config) -> None:
    """Sees that the engine is there, and can do what the config asks for.

    Raises:
        UserError: it isn't, or can't.
    """
    if config.engine == "deepspeed":
        check_deepspeed(config)
    check_precision(config.train, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def build_engine(
    config: Config, net: nn.Module, transforms: tuple[Transform, Transform], world: World, input_size: tuple[int, int]
) -> Engine:
    """Returns the engine over `net`; collective.

    Args:
        config: the run's, whose folder is there.
        net: on any device.
        transforms: from a batch's pictures to the net's input, in training and in testing.
        world: the ranks that train together.
        input_size: (height, width) of the net's input in training.
    """
    if config.engine == "deepspeed":
        return DeepSpeedEngine(net, transforms, config, world)
    return TorchEngine(net, transforms, config.optim, world, train=config.train, input_size=input_size)


def print_deepspeed_config(config: Config, world: World) -> None:
    """Writes to stdout, once, what DeepSpeed would be told on these ranks.

    Raises:
        UserError: DeepSpeed isn't installed, or can't do what the config asks for.
    """
    check_deepspeed(config)
    if world.is_main:
        sys.stdout.write(json.dumps(derive(config, world.size), indent=2) + "\n")
