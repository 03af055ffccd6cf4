"""Computes accuracy and loss of a checkpoint: `python -m stylefinetune.evaluate RUN`, alone or under torchrun."""

import dataclasses
import sys
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch, PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import RankBatchSampler
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command
from stylefinetune.training.evaluation import evaluate_batches, exit_if_lost


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("checkpoint", type=Path, help="RUN, RUN:best, RUN:ITERATION or a checkpoint's folder")
    parser.add_argument("--shards", help="test on these shards instead of those of the run")
    parser.add_argument("--split", help="test on this split instead of the test split of the run")
    parser.add_argument("--workers", type=int, help="decoding processes per rank")
    return parser


def evaluate(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    options = parse_command(build_parser(), arguments)
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers is {options.workers}; it must not be negative")
    saved = read_checkpoint(options.checkpoint)
    data = saved.config.data
    phase = data.phase(training=False)
    if options.split:
        phase = dataclasses.replace(phase, split=options.split)
    if options.shards:
        data = dataclasses.replace(data, shards=options.shards)
    index = open_index(data)
    if list(index.metadata.classes) != saved.progress.classes:
        raise UserError(f"the classes of {data.shards} differ from those of {saved.path}; name other --shards")
    pictures = PictureDataset(open_split(index, phase.split, "--split"), phase, seed=saved.progress.seed)
    world = World.join(stall_seconds=saved.config.train.stall_seconds)
    net, transform = saved.build_network(world.device)

    @torch.no_grad()
    def forward(batch: Batch) -> torch.Tensor:
        return net(transform(batch.pictures, batch.crops))

    sampler = RankBatchSampler(0, len(pictures.entries), phase.batch_size, world.rank, world.size)
    workers = data.workers if options.workers is None else options.workers
    world.drain_collectives()
    corrupt = CorruptPictures(pictures, data.max_corrupt, [])

    def note_progress() -> bool:
        world.set_activity("testing", saved.progress.iteration)
        return False

    with exit_if_lost(world):
        note_progress()
        batches = load_batches(pictures, sampler, workers, world.device)
        result = evaluate_batches(forward, batches, corrupt, world, note_progress)
    assert result is not None
    for line in corrupt.gather(world):
        if world.is_main:
            sys.stderr.write(f"warning: {line}\n")
    if world.is_main:
        print(f"{saved.path}, {result.count} pictures of {data.shards}, split {phase.split}")
        print(f"accuracy = {result.accuracy:.6g} ({result.correct} of {result.count})")
        print(f"loss = {result.loss:.6g}")
    world.shutdown()


if __name__ == "__main__":
    sys.exit(run_command(evaluate, sys.argv[1:]))
