"""Tries learning rates from low to high before a run: `stylefinetune find_lr [flags of training]`.

It trains for some iterations from the initial weights, saves no checkpoint, and changes nothing of the run. Alone or
under torchrun.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser

from stylefinetune.caffe.solver import read_solver
from stylefinetune.caffe.solver_lists import find_solver_lists
from stylefinetune.config.cli import build_parser as build_training_parser
from stylefinetune.config.cli import parse_config
from stylefinetune.config.help import show_help
from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.data.sampler import sampler_for_training
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError, run_command, write_error
from stylefinetune.tracking.tracker import Tracker
from stylefinetune.training.evaluation import exit_if_lost
from stylefinetune.training.exit_handler import ExitHandler
from stylefinetune.training.loaders import start_loaders
from stylefinetune.training.lr_range import RangeTest
from stylefinetune.training.preemption import Preemption
from stylefinetune.training.resident_loaders import load_resident
from stylefinetune.training.run import TrainingRun, build_run, facts_of
from stylefinetune.training.setup import prepare_training, stage_training_shards

_LINES = 20  # of the table


def build_parser() -> ArgumentParser:
    """Return the parser of the command line: the flags of training, and those of the test."""
    parser = build_training_parser()
    parser.prog, parser.description = "stylefinetune find_lr", "Tries learning rates from low to high."
    _add_flags(parser)
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--low", type=float, default=1e-6, help="lowest base learning rate")
    parser.add_argument("--high", type=float, default=10.0, help="highest base learning rate")
    parser.add_argument("--iterations", type=int, default=100, help="number of rates")
    parser.add_argument("--out", type=Path, help="PNG of the losses (default: find_lr.png in run_dir)")


def find_lr(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    if show_help("find_lr", arguments):
        return
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _add_flags(flags)
    try:
        options, others = flags.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if not 0 < options.low < options.high or options.iterations < 2:
        raise UserError(
            f"--low is {options.low:g}, --high {options.high:g} and --iterations {options.iterations}; rates rise from "
            "--low, above 0, to --high in at least 2 iterations"
        )
    config = parse_config(others, read_solver)
    test = RangeTest(options.low, options.high, options.iterations)
    world = World.join(deterministic=config.train.deterministic, stall_seconds=config.train.stall_seconds)
    with tempfile.TemporaryDirectory(prefix="find_lr_") as folder:
        _train(_config_of_test(config, folder, options.iterations), test, world)
    world.main_first(lambda: _report(test, options.out or Path(config.run_dir) / "find_lr.png"))
    world.shutdown()


def _config_of_test(config: Config, run_dir: str, iterations: int) -> Config:
    """Return the config of a new run of `iterations`, whose folder is temporary and which nothing tracks."""
    data, lists = config.data, find_solver_lists(config) if config.solver and not config.data.shards else None
    if lists is not None:
        if not lists.is_packed:
            raise UserError(f"the pictures of {config.solver} aren't packed yet, which its run does when it starts")
        data = dataclasses.replace(data, shards=str(lists.shards))
    train = dataclasses.replace(config.train, max_iter=iterations, epochs=None, display=0, average_loss=1, patience=0)
    tracking = TrackingConfig(wandb="disabled")
    return dataclasses.replace(config, run_dir=run_dir, resume="none", data=data, train=train, tracking=tracking)


def _train(config: Config, test: RangeTest, world: World) -> None:
    """Train with the rates of the test until it diverges; collective."""
    exit_handler = ExitHandler(Path(config.run_dir), world)
    with exit_if_lost(world), Preemption(world, exit_handler.exit_now) as preemption:
        setup = prepare_training(config, world)
        stage_training_shards(setup, world, preemption)
        with Tracker(setup.config, facts_of(setup, world), world, 0, []) as tracker:
            run = build_run(setup, world, tracker, preemption, exit_handler)
            for loss in _losses(run, test.rates):
                test.add(loss)
                if test.has_diverged:
                    break


def _losses(run: TrainingRun, rates: list[float]) -> Iterator[float]:
    """Train an iteration with each rate, and yield its loss; collective."""
    config, world = run.config, run.world
    loaders = load_resident(run, 0) or start_loaders(config, run.train_set, run.test_set, world, run.stream)
    sampler = sampler_for_training(config, 0, world.rank, world.size)
    batches = run.targets.complete(loaders.train.load(sampler), sampler)
    for iteration, rate in enumerate(rates):
        if run.preemption.requested() and run.preemption.signal:
            raise Stopped(run.preemption.signal, f"stopped by {run.preemption.signal.name}")
        world.set_activity("in the step and its all-reduce", iteration)
        micro_batches = [next(batches) for _ in range(config.train.iter_size)]
        loss = run.engine.train_step(iteration, micro_batches, rate)
        del micro_batches  # the loader uses their memory again
        yield world.sum(loss).item()


def _report(test: RangeTest, path: Path) -> None:
    """Print the losses and the suggested rate, and write the chart."""
    from stylefinetune.run_report.lr_chart import draw_range_test  # noqa: PLC0415 -- takes a second, on rank 0 only

    suggested = test.suggest()
    print("      rate       loss  smoothed loss")
    step = max(1, len(test.points) // _LINES)
    for index, point in enumerate(test.points):
        is_suggested = point.rate == suggested
        if index % step == 0 or is_suggested or index == len(test.points) - 1:
            mark = "  <- the loss falls fastest" if is_suggested else ""
            print(f"{point.rate:10.3g} {point.loss:10.5g} {point.smoothed:14.5g}{mark}")
    if test.has_diverged:
        print(f"The loss diverges at {test.points[-1].rate:.3g}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_range_test(test.points, suggested))
    except OSError as error:
        raise write_error(path, error.strerror) from error
    print(path)
    if suggested is None:
        print("No rate is suggested, since the loss doesn't fall; give a lower --low, or more --iterations.")
    else:
        print(f"suggested: --optim.base_lr {suggested:.2g}")


if __name__ == "__main__":
    sys.exit(run_command(find_lr, sys.argv[1:]))
