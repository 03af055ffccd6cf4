import pytest

from stylefinetune.checkpoint.checkpoint import Progress, save_checkpoint
from stylefinetune.checkpoint.size import checkpoint_bytes
from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import Config
from stylefinetune.config.train import TrainConfig
from stylefinetune.engines.torch_engine import TorchEngine
from tests.stylefinetune.checkpoint.test_async_saver import ALONE, MEANS
from tests.stylefinetune.engines.every_stage import net, transforms


@pytest.mark.parametrize(
    ("optim", "ema"),
    [
        (OptimConfig(), 0.0),
        (OptimConfig("sgd", momentum=0.0), 0.0),
        (OptimConfig("adamw", layers=(LayerRule("conv*", lr_mult=0.0), LayerRule("*"))), 0.9),
    ],
    ids=["caffe_sgd", "without momentum", "adamw, frozen layers and an average"],
)
def test_the_size_is_that_of_a_saved_checkpoint(tmp_path, optim, ema):
    config = Config(optim=optim, train=TrainConfig(ema_decay=ema))
    engine = TorchEngine(net(0.5), transforms(ALONE), optim, ALONE, train=config.train, input_size=(43, 43))
    progress = Progress(1, [1.0], [], 1, ["a"], "f00d", [48, 48], [43, 43])
    folder = save_checkpoint(tmp_path, progress, engine.state(), config, MEANS)
    saved = sum((folder / f"{name}.safetensors").stat().st_size for name in ("model", "optimizer"))
    assert 0 <= saved - checkpoint_bytes(engine.net, config) < 16_000  # names and shapes
