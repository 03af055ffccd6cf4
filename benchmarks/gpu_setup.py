"""The pictures, the network and the loops that `benchmarks.gpu` measures."""

import abc
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from shards.format.index import ShardIndex
from shards.format.order import RankBatchSampler
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.resident.loader import ResidentLoader
from stylefinetune.data.resident.pictures import ResidentPictures
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import Engine
from stylefinetune.engines.precision import set_tf32
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.models.build import build_model
from stylefinetune.tracking.metrics import LossWindow

CLASSES, BATCH, DISPLAY, LR = 20, 50, 20, 1e-6
WARM_UP = 30  # iterations, in which the graph is captured
# Fraction of the budget that a part may take; building the networks is not limited.
SHARES = {"modes": 0.5, "feed": 0.1, "command": 0.2}
Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of everything."""

    pictures: int  # in the memory of the GPU
    files: int  # JPEG files for the loader
    stored: int  # side of the pictures
    crop: int
    widths: tuple[int, int, int, int, int, int, int]

    @property
    def flags(self) -> list[str]:
        """The command's flags for a run of this size."""
        sizes = [f"--data.image_size={self.stored}", f"--data.crop_size={self.crop}"]
        return [*sizes, f"--model.widths={list(self.widths)}", f"--data.batch_size={BATCH}"]


FULL = Scale(80_000, 2_000, 256, 227, ModelConfig().widths)
TINY = Scale(300, 100, 48, 43, (8, 16, 16, 16, 16, 32, 32))


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured, and where."""

    device: torch.device
    scale: Scale
    iterations: int
    budget: float  # seconds
    shards: Path  # of the JPEG files
    index: Path  # of the random pictures, which have no files

    def seconds(self, part: str) -> float:
        """Return how long a part may take."""
        return self.budget * SHARES[part]

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def draw_jpegs(count: int, size: int) -> list[bytes]:
    """Return smooth random pictures as JPEG files, about as large as photographs of this size."""
    random = np.random.default_rng(0)
    coarse = (random.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8) for _ in range(count))
    return [cv2.imencode(".jpg", cv2.resize(each, (size, size)))[1].tobytes() for each in coarse]


def open_dataset(folder: Path, scale: Scale, split: str = "train") -> PictureDataset:
    """Return the pictures of a split, as a run of the recipe would read them."""
    phase = DataConfig(image_size=scale.stored, crop_size=scale.crop, shuffle=True).phase(training=split == "train")
    return PictureDataset(ShardIndex.load(folder).entries(split), phase, seed=1)


def load_random(options: Options, split: str) -> ResidentLoader:
    """Return a loader whose pictures are random numbers in the memory of the device."""
    pictures = ResidentPictures(open_dataset(options.index, options.scale, split), slice(None), options.device)
    pictures.pixels.random_(0, 256)
    return ResidentLoader(pictures)


class Loop(abc.ABC):
    """A training loop that reads its losses as often as a run does."""

    def __init__(self, options: Options, precision: Precision) -> None:
        self._options = options
        self._precision: Precision = precision
        self._world = World(rank=0, size=1, device=options.device)
        self._losses, self._iteration = LossWindow(1, []), 0

    @abc.abstractmethod
    def step(self, iteration: int) -> torch.Tensor:
        """Train one iteration and return its loss, on the device."""

    def run(self, iterations: int, limit: float) -> tuple[int, float]:
        """Train `iterations`, or fewer if `limit` seconds have passed; return their number and their seconds."""
        set_tf32(TrainConfig(precision=self._precision))
        self._options.synchronize()
        began, done = time.perf_counter(), 0
        for done in range(1, iterations + 1):
            self._losses.add(self.step(self._iteration), self._iteration)
            self._iteration += 1
            if done % DISPLAY == 0:
                self._losses.gather(self._world)
                if time.perf_counter() - began > limit:
                    break
        self._options.synchronize()
        return done, time.perf_counter() - began

    def warm_up(self) -> None:
        """Let libraries choose their algorithms, and capture the graph."""
        self.run(min(WARM_UP, 2 * self._options.iterations), limit=60)


class Trainer(Loop):
    """An engine and the loop around it, as in `stylefinetune.train`."""

    def __init__(self, options: Options, precision: Precision, *, graph: bool, batches: Iterator[Batch]) -> None:
        super().__init__(options, precision)
        self._batches = batches
        self.config = Config(
            model=ModelConfig(widths=options.scale.widths), train=TrainConfig(precision=precision, cuda_graph=graph)
        )
        side = options.scale.crop
        net = build_model(self.config.model, CLASSES, [(side, side)], seed=0)
        transform = Transform(torch.full((options.scale.stored,) * 2 + (3,), 110.0), 1.0, options.device)
        self.engine: Engine = TorchEngine(
            net,
            (transform, transform),
            self.config.optim,
            self._world,
            train=self.config.train,
            input_size=(side, side),
        )

    def step(self, iteration: int) -> torch.Tensor:
        """See Loop."""
        return self.engine.train_step(iteration, [next(self._batches)], LR)


class PlainLoop(Loop):
    """The same layers as PyTorch has them, with its defaults, on one batch that is transformed already."""

    def __init__(self, options: Options, precision: Precision) -> None:
        super().__init__(options, precision)
        side = options.scale.crop
        self._net: Any = build_model(ModelConfig(widths=options.scale.widths), CLASSES, [(side, side)], seed=0)
        for name in ("norm1", "norm2"):
            setattr(self._net, name, nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0))
        self._net.to(options.device)
        self._optimizer = torch.optim.SGD(self._net.parameters(), lr=LR, momentum=0.9, weight_decay=0.0005)
        self._pictures = torch.randn(BATCH, 3, side, side, device=options.device).mul_(60)
        self._labels = torch.randint(0, CLASSES, (BATCH,), device=options.device)

    def step(self, iteration: int) -> torch.Tensor:  # noqa: ARG002 -- all iterations have the same rate and pictures
        """See Loop."""
        bf16 = torch.autocast(self._pictures.device.type, torch.bfloat16)
        with bf16 if self._precision == "bf16" else contextlib.nullcontext():
            logits = self._net(self._pictures)
        loss = functional.cross_entropy(logits.float(), self._labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def endless(loader: ResidentLoader) -> Iterator[Batch]:
    """Return the batches of a very long run."""
    return loader.load(RankBatchSampler(0, BATCH * 10**7, BATCH, 0, 1))


def count_flop(scale: Scale) -> float:
    """Return the floating point operations of an iteration, two for each multiplication of the network's layers.

    The backward pass computes two gradients with as many operations as the forward pass has, except that the pictures
    need no gradient. (PyTorch's counter is wrong for the backward pass of grouped convolutions.)
    """
    net = build_model(ModelConfig(widths=scale.widths), CLASSES, [(scale.crop, scale.crop)], seed=0)
    pictures = torch.zeros(1, 3, scale.crop, scale.crop)
    forward = [FlopCounterMode(display=False), FlopCounterMode(display=False)]
    for counter, layers in zip(forward, (net, net.get_submodule("conv1")), strict=True):
        with counter, torch.no_grad():
            layers(pictures)
    whole, first = (counter.get_total_flops() for counter in forward)
    return float(3 * whole - first) * BATCH
