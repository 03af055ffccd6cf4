"""Finds what a run resumes from: its newest complete checkpoint, a given checkpoint, or a Caffe solver's state."""

import dataclasses
import fnmatch
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from shards.format import counted
from stylefinetune.caffe.files import HDF5_SUFFIXES, read_solverstate
from stylefinetune.checkpoint.checkpoint import (
    CONFIG,
    Checkpoint,
    DamagedCheckpointError,
    Progress,
    read_checkpoint,
    read_checkpoint_folder,
    retry_while_replaced,
)
from stylefinetune.checkpoint.early_stopping import stops_early
from stylefinetune.checkpoint.folders import (
    checkpoint_path,
    find_checkpoint_folder,
    list_checkpoints,
    newest_checkpoint,
)
from stylefinetune.config.deepspeed import flatten
from stylefinetune.config.optim import CAFFE_SGD
from stylefinetune.config.schema import Config
from stylefinetune.data.mean import describe_other_size, why_no_mean_picture
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, joined_sizes
from stylefinetune.models.weight_files import read_weights
from stylefinetune.models.weights import shapes_match
from stylefinetune.optim.caffe_sgd import MOMENTUM

SOLVER_STATES = (".solverstate", *(f".solverstate{suffix}" for suffix in HDF5_SUFFIXES))  # HDF5 is refused
DAMAGED = ".damaged"

# Settings that do not change what is computed. Other checks refuse another network or split.
_WITHOUT_EFFECT = (
    *("run_dir", "solver", "resume", "tracking.*", "checkpoint.*"),
    *("data.shards", "data.split", "data.workers", "data.resident", "data.stage_*", "data.max_corrupt"),
    *("model.arch", "model.display_name", "model.last_layer", "model.widths"),
    *("train.display", "train.average_loss", "train.test_in*", "train.stop_on_nonfinite", "train.stall_seconds"),
    *("train.cuda_graph", "train.patience"),
)
_START = ("weights", "model.*_filler_*")  # have no effect on a run that resumes
_MEAN = "data.*mean_*"
_ORDER = ("train.seed", "train.iter_size", "data.batch_size", "data.shuffle*", "data.balanced")


def find_checkpoint(config: Config, *, is_restarted: bool = False) -> Checkpoint | None:
    """Return the checkpoint to resume from as `config.resume` says; None for a new run, or one from a solver state.

    A run that starts from a Caffe solver's state or from another run's checkpoint resumes from its own checkpoints once
    it has any. A damaged checkpoint is skipped, and the one before it used.

    Args:
        config: of the run.
        is_restarted: whether torchrun or Slurm has started the same command before, so that the checkpoints of a new
            run are its own.

    Raises:
        UserError: the checkpoint is missing or damaged, or a new run is asked for where one exists.
    """
    run_dir, start = Path(config.run_dir), config.resume
    newest = newest_checkpoint(run_dir)
    if start == "none" and newest is not None and not is_restarted:
        raise UserError(
            f"{newest} exists already; remove {run_dir}, start a new run in another --run_dir, or continue this one "
            "without --resume none"
        )
    if start not in {"auto", "none"}:
        is_state = start.endswith(SOLVER_STATES)
        if not is_state and (newest is None or _is_of_run(Path(start), run_dir)):
            return read_checkpoint(Path(start))
        found = retry_while_replaced(lambda: _read_newest(run_dir))
        if found is not None and found.config.resume != start:
            raise UserError(
                f"{newest} exists already, of another run; start from {start} in another --run_dir, or continue that "
                "run without --resume"
            )
        return found
    return retry_while_replaced(lambda: _read_newest(run_dir))


def _is_of_run(path: Path, run_dir: Path) -> bool:
    """Return whether `path` names a checkpoint of a run."""
    folder = find_checkpoint_folder(path)
    return folder is not None and folder.parent.resolve() == checkpoint_path(run_dir, 0).parent.resolve()


def _read_newest(run_dir: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is not damaged."""
    damaged: list[str] = []
    for path in list_checkpoints(run_dir):
        try:
            return dataclasses.replace(read_checkpoint_folder(path), skipped=tuple(damaged))
        except DamagedCheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"all checkpoints of {run_dir} are damaged: {damaged[0]}, or use another --run_dir")
    return None


def check_ranks_agree(found: Checkpoint | None, world: World) -> None:
    """Check that all ranks resume from the same checkpoint; collective.

    Raises:
        UserError: they do not, because run_dir is not the same folder on all nodes.
    """
    iteration = torch.tensor([found.progress.iteration if found else -1])
    lowest, highest = world.min(iteration).item(), -world.min(-iteration).item()
    if lowest != highest:
        other = "none" if lowest < 0 else f"iter_{lowest}"
        raise UserError(
            f"one rank finds checkpoint iter_{highest}, another {other}; put run_dir on a disk that all nodes share"
        )


def rename_skipped(found: Checkpoint, run_dir: Path) -> None:
    """Rename the damaged checkpoints that are newer than `found` to iter_N.damaged."""
    for path in list_checkpoints(run_dir)[: len(found.skipped)]:
        renamed = path.with_name(path.name + DAMAGED)
        shutil.rmtree(renamed, ignore_errors=True)
        path.rename(renamed)


def restore_solverstate(
    config: Config, net: nn.Module, initial: Progress, means: tuple[torch.Tensor, torch.Tensor]
) -> Checkpoint | None:
    """Return the Caffe solver's state that `config.resume` names, as a checkpoint; None if it names none.

    The run takes over Caffe's iteration, momenta and weights. Its position in the data follows from the iteration;
    Caffe itself would start again with the first picture.

    Raises:
        UserError: the state or its .caffemodel cannot be read, or belongs to another network.
    """
    if not config.resume.endswith(SOLVER_STATES):
        return None
    path, optimizer = Path(config.resume), config.optim.optimizer
    if optimizer != CAFFE_SGD:
        raise UserError(
            f"{path} has the momenta of Caffe's SGD, and optim.optimizer is {optimizer}; set it to {CAFFE_SGD}"
        )
    state = read_solverstate(path)
    model = _learned_net(path, state.learned_net)
    weights = read_weights(model)
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    if len(state.momenta) != len(shapes):
        raise UserError(
            f"{path} has {len(state.momenta)} momenta, the network has {len(shapes)} blobs; "
            "the state belongs to another network, or to a solver other than SGD"
        )
    momenta = dict(zip(shapes, map(torch.from_numpy, state.momenta), strict=True))
    return Checkpoint(
        path=path,
        progress=dataclasses.replace(initial, iteration=state.iteration),
        config=config,
        tensors={name: _fit(weights.get(name), shape, name, model) for name, shape in shapes.items()},
        slots={MOMENTUM: {name: _fit(momenta[name], shape, name, path) for name, shape in shapes.items()}},
        scalars={},
        means=means,
    )


def _learned_net(state: Path, recorded: str) -> Path:
    """Find the .caffemodel that a state names: at the recorded path, otherwise next to the state."""
    candidates = [Path(recorded), state.with_name(Path(recorded).name)] if recorded else []
    for path in candidates:
        if path.is_file():
            return path
    missing = f"its weights {recorded} are missing; put that file next to it" if recorded else "it names no weights"
    raise UserError(f"{state} can't be used: {missing}")


def _fit(blob: torch.Tensor | None, shape: torch.Size, name: str, path: Path) -> torch.Tensor:
    if blob is None or not shapes_match(blob.shape, shape):
        found = "no such layer" if blob is None else joined_sizes(blob.shape)
        raise UserError(f"{path}: the run needs {name} of {joined_sizes(shape)}, the file has {found}")
    return blob.reshape(shape)


def changed_settings(before: Config, now: Config) -> list[str]:
    """Return a line for each setting that differs from the checkpoint's and changes what a resumed run computes."""
    changes = [(key, line) for key, line in _find_changes(before, now) if not _matches(key, _START)]
    return [line + _consequence(key) for key, line in changes]


def _consequence(key: str) -> str:
    if _matches(key, (_MEAN,)):
        return "; the mean of the checkpoint is subtracted anyway"
    if key == "optim.optimizer":
        return "; its state starts at zero"
    return "; the order of the pictures changes too" if _matches(key, _ORDER) else ""


def check_not_finished(found: Checkpoint, config: Config) -> None:
    """Check that a run that has no iterations left is not given another recipe, with which it would train nothing.

    Raises:
        UserError: a setting that changes the result differs from the checkpoint's.
    """
    done, max_iter = found.progress.iteration, config.train.max_iter
    if done < max_iter and not stops_early(found.progress.tests, config):
        return
    changes = [line for key, line in _find_changes(found.config, config) if key != "train.max_iter" or done > max_iter]
    if changes:
        raise UserError(
            f"{found.path} is after iteration {done} of {max_iter}, so nothing would be trained with the changed "
            f"settings: {'; '.join(changes)}. Use another --run_dir, or remove {config.run_dir} and start with "
            "--resume none"
        )


def _find_changes(before: Config, now: Config) -> Iterator[tuple[str, str]]:
    """Yield the key and a line of each setting that differs and changes the result of a new run."""
    previous = dict(flatten(dataclasses.asdict(before)))
    for key, value in flatten(dataclasses.asdict(now)):
        unused = key.startswith("deepspeed.") and now.engine != "deepspeed"
        if value != previous.get(key) and not unused and not _matches(key, _WITHOUT_EFFECT):
            yield key, f"{key} changes from {json.dumps(previous.get(key))} to {json.dumps(value)}"


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def check_resumed_data(checkpoint: Checkpoint, config: Config, classes: tuple[str, ...], index: str) -> None:
    """Check that a run may resume with this training data.

    Raises:
        UserError: the checkpoint was trained on other data.
    """
    saved, shards, split = checkpoint.progress, config.data.shards, config.data.split
    advice = "use another --run_dir"
    if config.model.arch != checkpoint.config.model.arch:
        difference = f"with model.arch {checkpoint.config.model.arch}, not {config.model.arch}"
        advice += f", or train with --weights {checkpoint.path} there"
    elif config.model.prototxt != checkpoint.config.model.prototxt:
        difference = "with another net"
        advice += f", or train with --weights {checkpoint.path} there"
    elif len(classes) != len(saved.classes):
        difference = f"on {counted(len(saved.classes), 'class')}, {shards} has {len(classes)}"
    elif list(classes) != saved.classes:
        label = next(label for label, name in enumerate(classes) if name != saved.classes[label])
        difference = f"with class {label} called {saved.classes[label]!r}, {shards} calls it {classes[label]!r}"
    elif split != checkpoint.config.data.split:
        difference = f"on split {checkpoint.config.data.split!r}, not {split!r}"
    elif index != saved.index and not config.checkpoint.allow_other_index:
        difference = f"on another index than {shards} has now"
        advice += ", or resume anyway with --checkpoint.allow_other_index=true"
    else:
        return
    raise UserError(f"{checkpoint.path} was trained {difference}; {advice}")


def check_resumed_means(checkpoint: Checkpoint, config: Config, sizes: Sequence[tuple[int, int]]) -> None:
    """Check that a checkpoint's means fit the pictures of training and perhaps of testing, of these (height, width).

    Raises:
        UserError: a mean picture doesn't fit.
    """
    phases = [config.data.phase(training=training) for training in (True, False)]
    for phase, mean, size in zip(phases, checkpoint.means, sizes, strict=False):
        is_picture = mean.shape[:2] != (1, 1)
        reason = describe_other_size(mean, size) or (why_no_mean_picture(phase) if is_picture else None)
        if reason:
            raise UserError(
                f"{checkpoint.path} subtracts a mean picture: {reason}; resume with the data settings of its "
                f"{CONFIG}, or train in another --run_dir with --weights {checkpoint.path}"
            )
