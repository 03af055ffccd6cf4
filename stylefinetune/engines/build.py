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
from stylefinetune.engines.gradient_compression import check_gradient_compression
from stylefinetune.engines.precision import check_precision, set_tf32
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.errors import UserError


def check_engine(config: Config, ranks: int = 1) -> None:
    """Check that the engine is installed, and that it and the machine support the config on `ranks` ranks.

    Raises:
        UserError: it is not installed, or a setting is not supported.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.engine == "deepspeed":
        check_deepspeed(config)
    check_gradient_compression(config)
    if config.train.cuda_graph:
        _check_cuda_graph(config, device, ranks)
    check_precision(config.train, device)


def _check_cuda_graph(config: Config, device: torch.device, ranks: int) -> None:
    if config.data.is_mixed or config.train.class_weights is not None:
        raise UserError(
            "train.cuda_graph is on, which can't capture data.mixup, data.cutmix or train.class_weights, since they "
            "depend on numbers of each batch; remove it, or them"
        )
    if device.type == "cpu":
        raise UserError("train.cuda_graph is on, which works on a GPU, but there is no GPU here; remove it")
    between_ranks = (
        ("model.batch_norm", config.model.batch_norm),
        ("train.gradient_compression", config.train.gradient_compression),
    )
    for name, value in between_ranks:
        if ranks > 1 and value in {"sync", "bf16"}:
            raise UserError(f"train.cuda_graph is on, which {ranks} ranks can't use with {name} {value}; remove either")


def build_engine(
    config: Config, net: nn.Module, transforms: tuple[Transform, Transform], world: World, input_size: tuple[int, int]
) -> Engine:
    """Return the engine that trains `net`, which may be on any device; run_dir exists; collective.

    The `transforms` from pictures to the network's input are those of training and of testing. `input_size` is the
    (height, width) of the input in training.
    """
    set_tf32(config.train)
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
