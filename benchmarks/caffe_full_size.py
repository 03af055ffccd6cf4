"""Compares the full-size CaffeNet with the original: the forward pass, the gradients and three training steps.

Each difference is relative to the largest value of its blob.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.caffe_checks import CPU, Row, activations, largest, relative
from benchmarks.caffe_results import Array
from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import ModelConfig, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.models.build import build_model
from stylefinetune.optim.caffe_sgd import MOMENTUM
from stylefinetune.optim.lr_schedule import learning_rate

SIZE = (227, 227)
LABELS = torch.tensor([3, 17, 0, 8])
STEPS = 3
# As in train_step_solver.prototxt: learning rates of 1e-4, 1e-5, 1e-6.
SOLVER = OptimConfig(base_lr=1e-4, gamma=0.1, stepsize=1, layers=(LayerRule("fc8_*", lr_mult=10.0),))


class _Unchanged(Transform):
    """Passes the batch to the net unchanged: the input in this comparison is random numbers, not pictures."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, 1, 3), 1.0, CPU)

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        del crops
        return pictures


def build(last_layer: str, classes: int) -> nn.Module:
    """Return the net without dropout, with the weights described in the README of the golden folder."""
    net = build_model(ModelConfig(last_layer=last_layer, dropout=0.0), classes, [SIZE], seed=0)
    layers = [(name, layer) for name, layer in net.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for place, (name, layer) in enumerate(layers):
        rs = np.random.RandomState(1000 + place)
        shape = tuple(layer.weight.shape)
        std = np.sqrt(2 / np.prod(shape[1:])) / (64 if name == "conv1" else 1)
        assert layer.bias is not None
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy((rs.standard_normal(shape) * std).astype(np.float32)))
            layer.bias.copy_(torch.from_numpy((rs.standard_normal(shape[0]) * 0.1).astype(np.float32)))
    return net


def draw(seed: int, count: int) -> torch.Tensor:
    """Return the input described in that README, float32[count, 3, 227, 227]."""
    drawn = np.random.RandomState(seed).uniform(-120, 130, (count, 3, *SIZE))
    return torch.from_numpy(drawn.astype(np.float32))


def compare_forward(golden: Path) -> Iterator[Row]:
    """Compare samples and sum of every layer's output, and all values of the last ones."""
    truth = np.load(golden / "caffenet" / "deploy_forward.npz")
    blobs = activations(build("fc8", 1000).eval(), draw(99, 2))
    blobs["prob"] = functional.softmax(torch.from_numpy(blobs["fc8"]), dim=1).numpy()
    del blobs["flatten"]
    worst = max(sampled(blob, truth, name) for name, blob in blobs.items())
    yield Row(f"CaffeNet: {len(blobs)} blobs, relative", 1, worst)
    whole = [relative(blobs[name], truth[f"{name}_full"].reshape(2, 1000)) for name in ("fc8", "prob")]
    yield Row("CaffeNet: fc8 and prob, all values, relative", 1, max(whole))


def compare_steps(golden: Path) -> Iterator[Row]:
    """Compare the gradients, and the losses, weights and momenta of three training steps."""
    truth = np.load(golden / "caffenet" / "train_steps.npz")
    net = build("fc8_flickr", 20).train()
    inputs = draw(98, len(LABELS))
    logits = net(inputs)
    functional.cross_entropy(logits, LABELS).backward()
    yield Row("CaffeNet: logits in training, relative", 1, relative(logits.detach().numpy(), truth["fc8_flickr"]))
    gradients = {name: cast("torch.Tensor", value.grad).numpy() for name, value in net.named_parameters()}
    worst = max(sampled(value, truth, f"grad_{_caffes_name(name)}") for name, value in gradients.items())
    yield Row("CaffeNet: gradients, relative", 1, worst)
    net.zero_grad()

    world = World(rank=0, size=1, device=CPU)
    engine = TorchEngine(net, (_Unchanged(), _Unchanged()), SOLVER, world, train=TrainConfig(seed=0), input_size=SIZE)
    where = torch.zeros(len(LABELS), dtype=torch.int64)
    batch = Batch(inputs, LABELS, Crops(where, where, where.bool(), SIZE), where, size=len(LABELS))
    losses: list[float] = []
    worst = {"w": 0.0, "V": 0.0}
    for step in range(STEPS):
        losses.append(engine.train_step(step, [batch], learning_rate(SOLVER, step, STEPS)).item())
        state = engine.state()
        for group, tensors in (("w", state.parameters), ("V", state.slots[MOMENTUM])):
            for name, tensor in tensors.items():
                key = f"{group}{step + 1}_{_caffes_name(name)}"
                if f"{key}/stride" in truth.files:
                    worst[group] = max(worst[group], sampled(tensor.numpy(), truth, key))
    yield Row("CaffeNet: losses of three steps, relative", 1, relative(losses, truth["step_losses"]))
    yield Row("CaffeNet: weights of three steps, relative", 1, worst["w"])
    yield Row("CaffeNet: momenta of three steps, relative", 1, worst["V"])


def sampled(ours: Array, truth: Any, name: str) -> float:  # noqa: ANN401 -- an npz file
    """Compare a blob with the samples, the largest value and the sum of squares in the golden file."""
    flat = ours.ravel().astype(np.float64)
    _, _, peak, squares = truth[f"{name}/stats"]
    samples = largest(flat[:: max(1, flat.size // 500)][:500], truth[f"{name}/stride"])
    differences = (samples / peak, (np.abs(flat).max() - peak) / peak, ((flat**2).sum() - squares) / squares)
    return float(np.abs(differences).max())


def _caffes_name(ours: str) -> str:
    layer, _, blob = ours.rpartition(".")
    return f"{layer}.{('weight', 'bias').index(blob)}"
