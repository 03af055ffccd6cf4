"""Checkpoints to export: of CaffeNet with a mean picture (`trained`), and of a ResNet with torchvision's input."""

import pytest
import torch

from stylefinetune.checkpoint import checkpoint
from stylefinetune.checkpoint.checkpoint import Progress
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, ModelConfig
from stylefinetune.engines.engine import EngineState
from stylefinetune.export.network import TrainedNetwork
from stylefinetune.export.pictures import read_pictures
from stylefinetune.models import build

SIDE = 64
DATA = DataConfig(
    shards="gone",
    resize="shorter_side",
    image_size=72,
    crop_size=SIDE,
    interpolation="bicubic",
    channels="rgb",
    mean_value=(124.0, 116.0, 103.0),
    std_value=(58.0, 57.0, 56.0),
)


@pytest.fixture(scope="session")
def save_network(tmp_path_factory):
    """Save a checkpoint of a network with random weights and three classes."""

    def save(arch, data=DATA):
        config = Config(data=data, model=ModelConfig(arch=arch))
        net = build.build_model(config.model, 3, [(SIDE, SIDE)], seed=0)
        state = EngineState(
            {name: value.detach() for name, value in net.named_parameters()}, dict(net.named_buffers()), {}
        )
        mean = torch.tensor(data.mean_value).reshape(1, 1, 3)
        tests = [{"iteration": 4, "accuracy": 0.5, "loss": 0.75}]
        progress = Progress(7, [1.5], tests, 1701, ["Noir", "Hazy", "Bright"], "f00d", [SIDE, SIDE], [SIDE, SIDE])
        return checkpoint.save_checkpoint(tmp_path_factory.mktemp("net") / "run", progress, state, config, (mean, mean))

    return save


@pytest.fixture(scope="session")
def resnet(save_network):
    """A checkpoint of torchvision's resnet18."""
    return save_network("resnet18")


@pytest.fixture(scope="session")
def photos(drawn):
    return [drawn.folder / f"test_00{number}.jpg" for number in range(3)]


@pytest.fixture
def open_network(photos):
    """Return the network of a checkpoint and pictures for its check."""

    def open_network(path):
        saved = checkpoint.read_checkpoint(path)
        return TrainedNetwork(saved), read_pictures(saved, photos)

    return open_network
