"""Checks whether a run can start, without starting it: `stylefinetune check [flags of training]`.

Launch scripts run it in a single process before torchrun: a mistake is then one line and exit code 2 instead of a
traceback from each rank. It prints the folder of the run on stdout, in which they read RUN/exit.json, and a summary of
the run on stderr.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from shards.format import counted
from stylefinetune.caffe.solver import read_solver
from stylefinetune.caffe.solver_lists import SolverLists, find_solver_lists
from stylefinetune.config.cli import parse_config
from stylefinetune.config.help import show_help
from stylefinetune.config.schema import Config
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command
from stylefinetune.models.layer_names import split_parameter
from stylefinetune.models.weights import load_weights, summarize_names
from stylefinetune.optim.param_groups import multipliers
from stylefinetune.training.plan.describe import describe_plan
from stylefinetune.training.preprocessing import describe_input
from stylefinetune.training.run_lock import check_not_in_use
from stylefinetune.training.setup import plan_of, prepare_training, warnings_of
from stylefinetune.training.solver_run import check_unpacked

_MAX_NAMES = 12  # of classes in a line
_MAX_LAYERS = 14  # of layers in a line


@dataclasses.dataclass(frozen=True)
class CheckedRun:
    """What was found right."""

    config: Config
    net: nn.Module  # with initial weights
    data: str  # in words
    plan: str
    resumed: Path | None  # the checkpoint that the run resumes from
    warnings: Sequence[str] = ()


def main(arguments: list[str]) -> None:
    """Check the command line `arguments` and the files that it names."""
    if show_help("check", arguments):
        return
    config = parse_config(arguments, read_solver)
    check_run_dir(Path(config.run_dir))
    check_not_in_use(Path(config.run_dir), World(rank=0, size=1, device=torch.device("cpu")))
    lists = find_solver_lists(config) if config.solver and not config.data.shards else None
    if lists is not None and lists.is_packed:  # by an earlier start
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(lists.shards)))
        lists = None
    run = _check_shards(config) if lists is None else _check_lists(config, lists)
    for line in summarize(run):
        sys.stderr.write(f"{line}\n")
    sys.stdout.buffer.write(os.fsencode(config.run_dir) + b"\n")  # as it was given, whatever stdout's encoding is


def check_run_dir(run_dir: Path) -> None:
    """Check that the folder of a run exists or can be created, without creating it.

    Raises:
        UserError: it does not exist and cannot be created.
    """
    existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"run_dir {run_dir} can't be created: {existing} is not a folder; use another --run_dir")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(
            f"run_dir {run_dir} can't be used: {existing} is not writable ({error.strerror}); use another --run_dir"
        ) from error


def _check_shards(config: Config) -> CheckedRun:
    setup = prepare_training(config, World(rank=0, size=1, device=torch.device("cpu")))
    classes = setup.index.metadata.classes
    more = ", ..." if len(classes) > _MAX_NAMES else ""
    sets = [pictures for pictures in (setup.train_set, setup.test_set) if pictures]
    counts = ", ".join(f"{pictures.phase.split} {len(pictures.entries):,}" for pictures in sets)
    return CheckedRun(
        config=setup.config,
        net=setup.net,
        data=f"{config.data.shards}: {counts} pictures; {counted(len(classes), 'class')}: "
        f"{', '.join(classes[:_MAX_NAMES])}{more}",
        plan=plan_of(setup),
        resumed=setup.resumed.path if setup.resumed else None,
        warnings=warnings_of(setup),
    )


def _check_lists(config: Config, lists: SolverLists) -> CheckedRun:
    """Check a Caffe solver's run from its list files, which the run packs when it starts."""
    unpacked = check_unpacked(config, lists)
    counts = ", ".join(f"{split} {count:,}" for split, count in unpacked.pictures.items())
    resumed = unpacked.resumed
    start = resumed.progress.iteration if resumed else 0
    train, test = unpacked.pictures[config.data.split], unpacked.pictures.get(config.data.test.split, 0)
    return CheckedRun(
        config=unpacked.config,
        net=unpacked.net,
        data=f"{config.solver}: {counts} pictures, which the run packs into {lists.shards}",
        plan=describe_plan(unpacked.config, train, lists.num_classes, test, start),
        resumed=resumed.path if resumed else None,
    )


def summarize(run: CheckedRun) -> list[str]:
    """Return the lines of the summary, after checking the weights.

    Raises:
        UserError: a file of weights can't be used.
    """
    config, names = run.config, [name for name, _ in run.net.named_parameters()]
    parameters = sum(parameter.numel() for parameter in run.net.parameters())
    lines = [
        f"data:     {run.data}",
        f"input:    {describe_input(config, config.data.phase(training=True))}",
        f"network:  {config.model.title}, {parameters:,} parameters",
    ]
    if run.resumed:
        lines.append(f"weights:  of {run.resumed}, from which the run resumes")
    elif config.weights:
        phase = config.data.phase(training=True)
        input_size = phase.input_size(phase.image_size or (224, 224))
        loaded = load_weights(run.net, config.weights, lambda _line: None, config.model.arch, input_size)
        layers = dict.fromkeys(split_parameter(name)[0] for name in names)
        random = [layer for layer in layers if layer not in loaded.copied]
        copied = [layer for layer in layers if layer in loaded.copied]
        ignored = loaded.ignored
        lines.append(
            f"weights:  {config.weights}: copied: {_join(copied)}; random: {_join(random)}; not used: {_join(ignored)}"
        )
    else:
        lines.append("weights:  random in all layers; --weights gives a file of pretrained ones")
    lines += [f"layers:   {line}" for line in _describe_rules(config, run.net)]
    lines.append(f"plan:     {run.plan}")
    return [*lines, *(f"warning:  {warning}" for warning in run.warnings)]


def _join(names: list[str]) -> str:
    return summarize_names(names, _MAX_LAYERS) or "none"


def _describe_rules(config: Config, net: nn.Module) -> list[str]:
    """Return a line for each learning rate and weight decay, with the names of the weights and biases that have it."""
    optim, groups = config.optim, dict[str, list[str]]()
    for name, given in multipliers(net, optim).items():
        rates = f"lr {given.lr_mult * optim.base_lr:.6g}, decay {given.decay_mult * optim.weight_decay:.6g}"
        until = f", frozen until iteration {given.freeze_until:,}" if given.freeze_until else ""
        line = rates + until if given.lr_mult else "frozen"
        groups.setdefault(line, []).append(".".join(filter(None, split_parameter(name))))
    return [f"{line}: {_join(members)}" for line, members in groups.items()]


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
