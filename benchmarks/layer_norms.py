"""Measures what the norms by layer take: `python -m benchmarks.layer_norms [--rounds 9]`.

Trains the full-size CaffeNet on random noise in batches of 50 on the CPU, with the engine and the memory of a run. A
step whose norms are measured and one without follow each other in turn, so that the load of the machine affects both
alike. Prints the medians in milliseconds of processor time of all threads, the median difference of a pair, and its
share of the 20 iterations of Caffe's recipe of which one is measured.
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

import torch

from benchmarks.step import CLASSES, LR, SIDE, STORED, draw_batch
from stylefinetune.config.schema import Config
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.allocator import keep_freed_memory
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.models.build import build_model

DISPLAY = 20
WARM_UP = 2


def build_engine() -> TorchEngine:
    """Return the engine of a run of Caffe's recipe."""
    config, world = Config(), World(rank=0, size=1, device=torch.device("cpu"))
    net = build_model(config.model, CLASSES, [(SIDE, SIDE)], seed=0)
    transform = Transform(torch.full((STORED, STORED, 3), 110.0), 1.0, world.device)
    return TorchEngine(net, (transform, transform), config.optim, world, train=config.train, input_size=(SIDE, SIDE))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layer_norms", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=9, help="pairs of steps")
    options = parser.parse_args()
    keep_freed_memory()
    engine, batch = build_engine(), draw_batch(50)

    def step(precision: Any, *, measure: bool) -> float:  # noqa: ANN401 -- one of two literals
        engine.train = dataclasses.replace(engine.train, precision=precision)
        engine.norms.start(measure=measure)
        began = time.process_time()
        engine.train_step(0, [batch], LR)
        engine.norms.values()
        return (time.process_time() - began) * 1000

    print("| | step | with norms | difference | of 20 iterations |\n|---|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        pairs = [
            (step(precision, measure=False), step(precision, measure=True)) for _ in range(WARM_UP + options.rounds)
        ][WARM_UP:]
        plain, measured = (statistics.median(times) for times in zip(*pairs, strict=True))
        difference = statistics.median(second - first for first, second in pairs)
        share = difference / (DISPLAY * plain)
        print(f"| {precision} | {plain:.0f} | {measured:.0f} | {difference:.0f} | {share:.2%} |", flush=True)


if __name__ == "__main__":
    main()
