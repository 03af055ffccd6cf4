"""Training reads the value of a tensor, which waits for the device, only for the iterations that it logs."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from stylefinetune.config.optim import OptimConfig
from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.data import transforms
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import build_engine
from stylefinetune.models.build import build_model
from stylefinetune.tracking.metrics import LossWindow
from tests.programs import NARROW, TWENTY, train


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({}, "fp32"), ({"clip_gradients": 1.0}, "fp32"), ({"clip_gradients": 1.0}, "fp16")],
    ids=["plain", "clipped", "clipped in fp16"],
)
def test_a_step_never_reads_a_tensor_value(flags, precision, monkeypatch):
    """A read synchronizes with the device. It fails for PyTorch's fake tensors, which have shapes but no values.

    nonzero() and indexing by a mask fail as well, since their shapes depend on values.
    """
    world = World(rank=0, size=1, device=torch.device("cpu"))
    model, settings = ModelConfig(widths=(8, 16, 16, 16, 16, 32, 32)), TrainConfig(precision=precision)
    config = Config(model=model, optim=OptimConfig(**flags), train=settings)
    monkeypatch.setattr(transforms, "crop_each", transforms.crop_together)  # as on a GPU
    with FakeTensorMode():
        net = build_model(config.model, 5, [(43, 43)], seed=1)
        net.to = lambda *_, **__: net  # PyTorch can't move fake parameters
        transform = Transform(torch.zeros(1, 1, 3), 1.0, world.device)
        engine = build_engine(config, net, (transform, transform), world, (43, 43))
        zeros = torch.zeros(6, dtype=torch.int64)
        pictures, crops = torch.zeros(6, 48, 48, 3, dtype=torch.uint8), Crops(zeros, zeros, zeros.bool(), (43, 43))
        window = LossWindow(2, [])
        for iteration in range(3):
            micro_batches = [Batch(pictures, zeros, crops, zeros, 6)] * 2
            window.add(engine.train_step(iteration, micro_batches, lr=0.1), iteration)
        with pytest.raises(DataDependentOutputException):
            window.first_not_finite(world)


class ValueReads(TorchDispatchMode):
    """Counts how often Python reads the value of a tensor, which synchronizes with the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator is torch.ops.aten._local_scalar_dense.default
        return operator(*args, **(kwargs or {}))


def test_the_loop_reads_values_only_for_displayed_iterations(pixel_shards, tmp_path):
    def count_reads(iterations, display):
        schedule = [f"--train.max_iter={iterations}", f"--train.display={display}", "--train.test_interval=0"]
        run_dir = tmp_path / f"{iterations} {display}"
        with ValueReads() as reads:
            train(
                *NARROW, *schedule, "--checkpoint.snapshot=0", f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"
            )
        return reads.count

    assert count_reads(4, 0) == count_reads(9, 0) < count_reads(9, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_does_not_synchronize(pixel_shards, tmp_path, monkeypatch):
    from stylefinetune.engines.torch_engine import TorchEngine

    steps, step = [], TorchEngine.train_step

    def watched(engine, iteration, micro_batches, lr):
        if iteration:  # the first iteration initializes cuDNN
            torch.cuda.set_sync_debug_mode("error")
        try:
            steps.append(iteration)
            return step(engine, iteration, micro_batches, lr)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TorchEngine, "train_step", watched)
    train(*NARROW, *TWENTY, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}")
    assert steps == list(range(20))
