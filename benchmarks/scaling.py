"""Compares ranks with threads on a CPU: `python -m benchmarks.scaling [--before DIR] [--adding | --trace]`.

Every program trains the full-size CaffeNet on random noise, in batches of 50 in total:

- 1 x 2: one rank with two threads
- 2 x 1, 3 x 1: two or three ranks with one thread each, which add gradients in shared memory
- gloo: 2 x 1 with DistributedDataParallel over gloo, as on several machines
- 2 apart, 3 apart: the same ranks, but they send nothing: what communication that is free would leave
- bf16: gloo with train.gradient_compression=bf16
- before: 2 x 1 of the checkout DIR, for example of `git worktree add DIR COMMIT`

In each round every program does one step, in turn, while the others wait. Prints the medians over the rounds: the time
of a step on the slowest rank, the processor time of all ranks and threads, and their ratios to 1 x 2, or to the first
program. With --adding, the programs only add their gradients; for gloo, without DistributedDataParallel's copies to and
from its buckets. With --trace, prints instead what rank 0 of gloo does in one step: the backward pass, and when the
gradients of which bucket are sent (medians of --rounds steps).
"""

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from benchmarks.step import CLASSES, LR, ROOT, SIDE, STORED, WARM_UP, Measured, draw_batch
from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.shared_gradients import SharedGradients
from stylefinetune.distributed.world import World
from stylefinetune.engines.allocator import keep_freed_memory
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.models.build import build_model

BATCH = 50
PROGRAMS = {"1 x 2": (1, 2), "2 x 1": (2, 1), "2 apart": (2, 1), "bf16": (2, 1), "3 x 1": (3, 1), "3 apart": (3, 1)}
PROGRAMS["gloo"] = PROGRAMS["before"] = (2, 1)  # ranks, threads of each


def slice_of(batch: Batch, part: int, parts: int) -> Batch:
    """Return one of `parts` equal slices of a batch."""
    pictures = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
    crops = batch.crops
    crops = dataclasses.replace(
        crops, top=crops.top[pictures], left=crops.left[pictures], mirror=crops.mirror[pictures]
    )
    return Batch(batch.pictures[pictures], batch.labels[pictures], crops, batch.positions[pictures], BATCH)


def serve(program: str, part: int) -> None:
    """Do one step for each line on stdin, as part `part` of the program, and print what it took as JSON."""
    if program == "gloo":
        del os.memfd_create  # as on a system that does not have it
    keep_freed_memory()
    world = World.join()
    train = TrainConfig(gradient_compression="bf16") if program == "bf16" else TrainConfig()
    config = Config(train=train)
    net = build_model(config.model, CLASSES, [(SIDE, SIDE)], seed=0)
    transform = Transform(torch.full((STORED, STORED, 3), 110.0), 1.0, torch.device("cpu"))
    engine = TorchEngine(net, (transform, transform), config.optim, world, train=train, input_size=(SIDE, SIDE))
    batch = slice_of(draw_batch(BATCH), part, PROGRAMS[program][0])
    add: Callable[[], None] | None = None
    print(flush=True)
    for line in sys.stdin:
        if line == "trace\n":
            with profile(activities=[ProfilerActivity.CPU]) as found:
                engine.train_step(1, [batch], LR)
            print(json.dumps(summarize(found)), flush=True)
            continue
        if line == "add\n":
            add = add or adder(world, list(engine.net.parameters()))
        began, spent = time.perf_counter(), time.process_time()
        if add:
            add()
        else:
            engine.train_step(1, [batch], LR)
        print(json.dumps([time.perf_counter() - began, time.process_time() - spent]), flush=True)


def adder(world: World, parameters: list[torch.nn.Parameter]) -> Callable[[], None]:
    """Return a function that adds gradients of the parameters over the ranks."""
    shared = SharedGradients.open(parameters, world)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]

    def add() -> None:
        if not shared:
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                assert work is not None
                work.wait()
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        shared.add(private=False)

    return add


def summarize(found: Any) -> dict[str, float]:  # noqa: ANN401 -- a profile
    """Return milliseconds since the beginning of the backward pass: its end, and each all-reduce's begin and end."""
    events = [(event.name, event.time_range.start / 1000, event.time_range.end / 1000) for event in found.events()]
    # The nodes of the backward pass, without the all-reduces that they wait for at the end.
    nodes = [event for event in events if event[0].startswith("autograd::engine::evaluate_function")]
    layers = [node for node in nodes if "AccumulateGrad" not in node[0]]
    zero = min(begin for _, begin, _ in nodes)
    sent = sorted((begin - zero, end - zero) for name, begin, end in events if name == "gloo:all_reduce")
    result = {"backward": max(end for _, _, end in layers) - zero}
    for number, (begin, end) in enumerate(sent):
        result |= {f"bucket {number} from": begin, f"bucket {number} to": end}
    return result


class Program:
    """The processes of a program, which run `serve`."""

    def __init__(self, name: str, checkout: Path) -> None:
        self.name = name
        ranks, threads = PROGRAMS[name]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes: list[subprocess.Popen[str]] = []
        for rank in range(ranks):
            environment = {"OMP_NUM_THREADS": threads, "PYTHONPATH": checkout}
            if "apart" not in name:
                environment |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), f"--serve={name}", f"--part={rank}"],
                env={**os.environ, **{key: str(value) for key, value in environment.items()}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._processes.append(process)
        self._read()

    def measure(self, what: str) -> Measured:
        """Do one `step` on all ranks, or `add` their gradients."""
        found = self._ask(what)
        return Measured(max(seconds for seconds, _ in found), sum(processor for _, processor in found))

    def trace(self) -> dict[str, float]:
        """Do one step and return `summarize` of rank 0."""
        return self._ask("trace")[0]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _ask(self, line: str) -> list[Any]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        return [json.loads(answer) for answer in self._read()]

    def _read(self) -> list[str]:
        answers: list[str] = []
        for process in self._processes:
            assert process.stdout is not None
            answers.append(process.stdout.readline())
            if not answers[-1]:
                raise RuntimeError(f"{self.name} ended with code {process.wait()}")
        return answers


def compare(programs: list[Program], rounds: int, what: str) -> None:
    """Print the table of steps, or of adding the gradients."""
    found: dict[str, list[Measured]] = {program.name: [] for program in programs}
    for round_ in range(WARM_UP + rounds):
        for program in programs:
            measured = program.measure(what)
            if round_ >= WARM_UP:
                found[program.name].append(measured)
    print("| program | ms | least ms | processor ms | time / first | processor / first |\n|---|---|---|---|---|---|")
    first = found[programs[0].name]
    for name, measured in found.items():
        seconds, processor = ([getattr(each, field) for each in measured] for field in ("seconds", "processor"))
        values = [statistics.median(seconds), min(seconds), statistics.median(processor)]
        ratios = [
            statistics.median(
                getattr(one, field) / getattr(other, field) for one, other in zip(measured, first, strict=True)
            )
            for field in ("seconds", "processor")
        ]
        cells = [*(f"{1000 * value:.0f}" for value in values), *(f"{ratio:.2f}" for ratio in ratios)]
        print(f"| {name} | {' | '.join(cells)} |")


def trace(program: Program, rounds: int) -> None:
    """Print the medians of `Program.trace`."""
    found = [program.trace() for _ in range(WARM_UP + rounds)][WARM_UP:]
    for name in found[0]:
        print(f"{program.name}: {name} {statistics.median(each[name] for each in found):.0f} ms")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of an earlier version to compare with")
    parser.add_argument("--only", choices=PROGRAMS, action="append", help="measure this program; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--adding", action="store_true", help="only add the gradients")
    parser.add_argument("--trace", action="store_true", help="print when gloo sends its gradients")
    parser.add_argument("--serve", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.part)
        return
    names = ["gloo"] if options.trace else options.only or [name for name in PROGRAMS if name != "before"]
    names += ["before"] if options.before else []
    print(
        f"PyTorch {torch.__version__}, batch {BATCH}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n",
        flush=True,
    )
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(contextlib.closing(Program(name, options.before if name == "before" else ROOT)))
            for name in names
        ]
        if options.trace:
            for program in programs:
                trace(program, options.rounds)
        else:
            compare(programs, options.rounds, "add" if options.adding else "step")


if __name__ == "__main__":
    main()
