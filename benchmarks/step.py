"""Measures a step on a CPU: `python -m benchmarks.step [--arch resnet50] [--before DIR] [--rounds 7]`.

Every program runs in its own process and trains a network on random noise, in batches: the full-size CaffeNet, or
another network that `model.arch` can name, with inputs of 224 pixels and SGD. In each round every process does one
step in fp32, one in bf16, and each part alone, in turn, while the others wait. So the load of the machine affects all
of them alike.

- default: the engine of this version, as a run has it: transform, forward and backward pass, update
- contiguous: the same with train.channels_last=false
- malloc: the same without `keep_freed_memory`
- probe: a plain loop over the same layers in channels-last format, with torch.optim.SGD(fused=True), kept memory and an
  input that is transformed already: what the engine may add to is little
- plain: a plain loop over PyTorch's own layers, with nn.LocalResponseNorm, torch.optim.SGD and PyTorch's defaults
- before: the engine of the checkout DIR, as `default`; for example of `git worktree add DIR COMMIT`

Prints the medians over the rounds in milliseconds, of the time and of the processor time of all threads, and the median
ratio of each program's times to those of `default`.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.models.build import build_model

ROOT = Path(__file__).resolve().parent.parent
CLASSES, STORED, SIDE, LR = 20, 256, 227, 1e-6  # SIDE is CaffeNet's
OTHER_SIDE = 224
CAFFENET = "caffenet"
PROGRAMS = ("default", "contiguous", "malloc", "probe", "plain", "before")
PARTS = ("fp32", "bf16", "transform", "normalize", "update")
WARM_UP = 2
Parts = dict[str, Callable[[], object]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of one call, and processor seconds of all threads."""

    seconds: float
    processor: float


def draw_batch(count: int, side: int = SIDE) -> Batch:
    """Return a batch of random noise, cropped and mirrored at random."""
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, *size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.randint(0, high, size, generator=generator, dtype=dtype)

    margin = STORED - side + 1
    crops = Crops(draw(margin, count), draw(margin, count), draw(2, count).bool(), (side, side))
    pictures = draw(256, count, STORED, STORED, 3, dtype=torch.uint8)
    return Batch(pictures, draw(CLASSES, count), crops, torch.arange(count), count)


def build_config(program: str, arch: str) -> Config:
    """Return the config of a run of the engine, with Caffe's rates for CaffeNet and one rate for other networks."""
    train = TrainConfig(channels_last=False) if program == "contiguous" else TrainConfig()
    if arch == CAFFENET:
        return Config(train=train)
    return Config(model=ModelConfig(arch=arch), train=train, optim=dataclasses.replace(Config().optim, layers=()))


def build_net(config: Config, batch: Batch) -> nn.Module:
    """Return the network of a config, with random weights, for the inputs of a batch."""
    return build_model(config.model, CLASSES, [batch.crops.size], seed=0)


def build_engine_parts(program: str, arch: str, batch: Batch) -> Parts:
    """Return the step of the engine in both precisions, and its parts."""
    config = build_config(program, arch)
    net = build_net(config, batch)
    transform = Transform(torch.full((STORED, STORED, 3), 110.0), 1.0, torch.device("cpu"))
    world = World(rank=0, size=1, device=torch.device("cpu"))
    size = batch.crops.size
    engine = TorchEngine(net, (transform, transform), config.optim, world, train=config.train, input_size=size)
    gradients = {parameter: torch.full_like(parameter, 1e-6) for parameter in net.parameters()}

    def step(precision: Any) -> None:  # noqa: ANN401 -- one of two literals
        engine.train = dataclasses.replace(config.train, precision=precision)
        engine.train_step(0, [batch], LR)

    def update() -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        engine.optimizer.step()
        engine.optimizer.zero_grad(set_to_none=True)

    return {
        "fp32": lambda: step("fp32"),
        "bf16": lambda: step("bf16"),
        "transform": lambda: transform(batch.pictures, batch.crops),
        "update": update,
        **({"normalize": build_normalization(net, len(batch.labels))} if arch == CAFFENET else {}),
    }


def build_normalization(net: nn.Module, count: int) -> Callable[[], None]:
    """Return the forward and backward pass of CaffeNet's two normalizations, for a batch of `count` pictures."""
    layout = torch.channels_last if is_channels_last(net.get_submodule("conv2")) else torch.contiguous_format
    pooled = {
        net.get_submodule(name): torch.rand(count, channels, side, side).mul_(100).to(memory_format=layout)
        for name, channels, side in (("norm1", 96, 27), ("norm2", 256, 13))
    }

    def normalize() -> None:
        for layer, activations in pooled.items():
            leaf = activations.requires_grad_()
            torch.autograd.grad(layer(leaf), leaf, activations)

    return normalize


def is_channels_last(layer: nn.Module) -> bool:
    """Return whether the weights of a convolution are in channels-last format."""
    return next(layer.parameters()).is_contiguous(memory_format=torch.channels_last)


def build_loop_parts(program: str, arch: str, batch: Batch) -> Parts:
    """Return the step of a plain loop in both precisions."""
    probes = program == "probe"
    layout = torch.channels_last if probes else torch.contiguous_format
    net: Any = build_net(build_config(program, arch), batch).to(memory_format=layout)  # pyright: ignore[reportCallIssue] -- it does take one
    if arch == CAFFENET and not probes:
        for name in ("norm1", "norm2"):
            setattr(net, name, nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1.0))
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=0.0005, fused=probes or None)
    pictures = torch.randn(len(batch.labels), 3, *batch.crops.size).mul_(60).to(memory_format=layout)

    def step(*, bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            logits = net(pictures)
        functional.cross_entropy(logits.float(), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"fp32": lambda: step(bf16=False), "bf16": lambda: step(bf16=True)}


def serve(program: str, arch: str, count: int) -> None:
    """Do the parts whose names arrive on stdin, and print how long each took; the first line names all parts."""
    if program in ("default", "contiguous", "probe"):
        from stylefinetune.engines.allocator import keep_freed_memory  # noqa: PLC0415 -- `before` may not have it

        keep_freed_memory()
    build = build_loop_parts if program in ("probe", "plain") else build_engine_parts
    parts = build(program, arch, draw_batch(count, SIDE if arch == CAFFENET else OTHER_SIDE))
    print(json.dumps(list(parts)), flush=True)
    for line in sys.stdin:
        began, spent = time.perf_counter(), time.process_time()
        parts[line.strip()]()
        print(json.dumps([time.perf_counter() - began, time.process_time() - spent]), flush=True)


class Program:
    """A process that runs `serve`."""

    def __init__(self, name: str, checkout: Path, flags: list[str]) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).resolve()), f"--serve={name}", *flags]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.parts: list[str] = self._read()

    def measure(self, part: str) -> Measured:
        """Run a part once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{part}\n")
        self._process.stdin.flush()
        return Measured(*self._read())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> Any:  # noqa: ANN401 -- JSON
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}")
        return json.loads(line)


def measure(programs: list[Program], rounds: int) -> dict[str, dict[str, list[Measured]]]:
    """Run all parts of all programs in turn; return, by part and program, what each round measured."""
    found: dict[str, dict[str, list[Measured]]] = {part: {} for part in PARTS}
    for round_ in range(WARM_UP + rounds):
        for part in PARTS:
            for program in programs:
                if part in program.parts:
                    measured = program.measure(part)
                    if round_ >= WARM_UP:
                        found[part].setdefault(program.name, []).append(measured)
    return found


def format_table(found: dict[str, dict[str, list[Measured]]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| part | program | ms | processor ms | time / default | processor / default |\n|---|---|---|---|---|---|"
    for part, by_program in found.items():
        for name, measured in by_program.items():
            medians, ratios = list[str](), list[str]()
            for field in ("seconds", "processor"):
                values = [getattr(each, field) for each in measured]
                defaults = [getattr(each, field) for each in by_program["default"]]
                medians.append(f"{1000 * statistics.median(values):.1f}")
                ratio = statistics.median(value / default for value, default in zip(values, defaults, strict=True))
                ratios.append(f"{ratio:.2f}")
            yield f"| {part} | {name} | {' | '.join([*medians, *ratios])} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default=CAFFENET, help=f"network (default: {CAFFENET})")
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of an earlier version to compare with")
    parser.add_argument("--only", choices=PROGRAMS[1:], action="append", help="compare with this program only")
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.arch, options.batch_size)
        return
    chosen = ["default", *(options.only or PROGRAMS[1:])]
    names = [name for name in chosen if name != "before" or options.before]
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {options.arch}, ", end="")
    print(f"batch {options.batch_size}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n", flush=True)
    checkouts = {name: options.before.resolve() if name == "before" else ROOT for name in names}
    flags = [f"--arch={options.arch}", f"--batch_size={options.batch_size}"]
    programs = [Program(name, checkout, flags) for name, checkout in checkouts.items()]
    found = measure(programs, options.rounds)
    for program in programs:
        program.close()
    for line in format_table(found):
        print(line)


if __name__ == "__main__":
    main()
