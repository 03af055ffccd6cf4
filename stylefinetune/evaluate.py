"""Tests a checkpoint: `python -m stylefinetune.evaluate RUN`, on one process or under torchrun."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from stylefinetune import checkpoint
from stylefinetune.corrupt import CorruptPictures
from stylefinetune.data import Batch, PictureSet, open_index, open_split, read_batches
from stylefinetune.errors import UserError, run_command
from stylefinetune.metrics import TestResult, TestSum
from stylefinetune.order import Slices
from stylefinetune.world import World


def test(
    forward: Callable[[Batch], torch.Tensor],
    batches: Iterable[Batch],
    corrupt: CorruptPictures,
    world: World,
    stop: Callable[[], bool],
) -> TestResult | None:
    """Tests every picture of `batches` once over all ranks, but for corrupt ones; collective, the same result on each.

    Args:
        forward: gives a batch's logits.
        batches: this rank's slices.
        corrupt: notes what can't be decoded.
        world: the ranks.
        stop: asked before each batch whether to leave.

    Returns:
        None where it was left.
    """
    total = TestSum(world.device)
    for batch in batches:
        if stop():
            return None
        corrupt.add_all([batch])
        total.add(forward(batch), batch.labels.to(world.device))
    return total.total(world)


test.__test__ = False  # pyright: ignore[reportFunctionMemberAccess] -- tells pytest that this isn't one of its tests


def evaluate(arguments: list[str]) -> None:
    """Runs the command line `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m stylefinetune.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--shards", help="test on these shards instead of the run's own")
    parser.add_argument("--split", help="test on this split instead of the run's test split")
    parser.add_argument("--workers", type=int, help="decoding processes of each rank")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers is {options.workers}; it must not be negative")
    saved = checkpoint.read(options.checkpoint)
    data = saved.config.data
    phase = data.phase(training=False)
    if options.split:
        phase = dataclasses.replace(phase, split=options.split)
    if options.shards:
        data = dataclasses.replace(data, shards=options.shards)
    index = open_index(data)
    if list(index.metadata.classes) != saved.progress.classes:
        raise UserError(f"{data.shards} has other classes than {saved.path} was trained on")
    pictures = PictureSet(open_split(index, phase.split), phase, seed=saved.progress.seed)
    world = World.join()
    net, transform = saved.network(world.device)

    @torch.no_grad()
    def forward(batch: Batch) -> torch.Tensor:
        return net(transform(batch.pictures, batch.crops))

    slices = Slices(0, len(pictures.entries), phase.batch_size, world.rank, world.size)
    workers = data.workers if options.workers is None else options.workers
    world.settle()
    corrupt = CorruptPictures(pictures, data.max_corrupt, [])
    result = test(forward, read_batches(pictures, slices, workers, world.device), corrupt, world, lambda: False)
    assert result is not None
    for line in corrupt.gather(world):
        if world.is_lead:
            sys.stderr.write(f"warning: {line}\n")
    if world.is_lead:
        print(f"{saved.path}, {result.count} pictures of {data.shards}, split {phase.split}")
        print(f"accuracy = {result.accuracy:.6g} ({result.correct} of {result.count})")
        print(f"loss = {result.loss:.6g}")
    world.leave()


if __name__ == "__main__":
    sys.exit(run_command(evaluate, sys.argv[1:]))
