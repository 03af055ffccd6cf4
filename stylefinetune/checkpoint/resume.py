"""Where a run goes on from: its newest checkpoint that is whole, one that is named, or a Caffe solver's state."""

import dataclasses
import fnmatch
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylefinetune.caffe.files import read_solverstate
from stylefinetune.checkpoint.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    Progress,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    read_checkpoint_folder,
    retry_while_replaced,
)
from stylefinetune.config.schema import Config
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.models.weights import read_weights, shapes_agree
from stylefinetune.optim.caffe_sgd import MOMENTUM

SOLVER_STATE = ".solverstate"
DAMAGED = ".damaged"

# What may change without changing what is computed; the network's own shape and the split are refused elsewhere.
_WITHOUT_EFFECT = (
    *("run_dir", "solver", "weights", "resume", "tracking.*", "checkpoint.*"),
    *("data.shards", "data.split", "data.workers", "data.stage_dir", "data.max_corrupt"),
    *("model.name", "model.last_layer", "model.widths", "model.*_filler_*"),
    *("train.display", "train.average_loss", "train.test_in*", "train.stop_on_nonfinite", "train.stall_seconds"),
)
_MEAN = "data.*mean_*"
_ORDER = ("train.seed", "train.iter_size", "data.batch_size", "data.shuffle*")


def find_checkpoint(config: Config) -> Checkpoint | None:
    """Returns the checkpoint that `config.resume` asks to go on from; None starts afresh, or from a solver state.

    A Caffe solver's state is where a run starts: once it has checkpoints of its own, it goes on from those. Where the
    newest is damaged, the one before it is used.

    Raises:
        UserError: it asks for one that isn't there or is damaged, or to start afresh where a run lies already.
    """
    run_dir = Path(config.run_dir)
    last = newest_checkpoint(run_dir)
    if config.resume.endswith(SOLVER_STATE):
        found = retry_while_replaced(lambda: _newest_whole(run_dir))
        if found is not None and found.config.resume != config.resume:
            raise UserError(
                f"{last}, of another run, is there already; start from {config.resume} in another --run_dir"
            )
        return found
    if config.resume == "none":
        if last is not None:
            raise UserError(f"{last} is there already; remove {run_dir}, or start afresh in another --run_dir")
        return None
    if config.resume == "auto":
        return retry_while_replaced(lambda: _newest_whole(run_dir))
    return read_checkpoint(Path(config.resume))


def _newest_whole(run_dir: Path) -> Checkpoint | None:
    damaged: list[str] = []
    for path in list_checkpoints(run_dir):
        try:
            return dataclasses.replace(read_checkpoint_folder(path), passed_over=tuple(damaged))
        except DamagedCheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"no checkpoint of {run_dir} is whole; {damaged[0]}, or start afresh in another --run_dir")
    return None


def check_ranks_agree(found: Checkpoint | None, world: World) -> None:
    """Sees that all ranks go on from the same checkpoint; collective.

    Raises:
        UserError: they don't, since they see different folders.
    """
    mine = torch.tensor([found.progress.iteration if found else -1])
    least, most = world.min(mine).item(), -world.min(-mine).item()
    if least != most:
        seen = "none" if least < 0 else f"iter_{least}"
        raise UserError(
            f"one rank finds checkpoint iter_{most}, another {seen}; put run_dir on a disk that all nodes share"
        )


def set_later_aside(found: Checkpoint, run_dir: Path) -> None:
    """Takes the damaged checkpoints that were passed over out of the way, keeping them for whoever wants to look."""
    for path in list_checkpoints(run_dir)[: len(found.passed_over)]:
        beside = path.with_name(path.name + DAMAGED)
        shutil.rmtree(beside, ignore_errors=True)
        path.rename(beside)


def restore_solverstate(
    config: Config, net: nn.Module, fresh: Progress, means: tuple[torch.Tensor, torch.Tensor]
) -> Checkpoint | None:
    """Returns the Caffe solver's state that `config.resume` names, as a checkpoint; None where it names none.

    The run takes over Caffe's iteration, momenta and weights; its place in the data is that of the iteration, whereas
    Caffe itself would begin again with the first picture.

    Args:
        config: the run's.
        net: the network that is to go on.
        fresh: progress of a run that begins.
        means: what is subtracted from pictures.

    Raises:
        UserError: the state or its .caffemodel can't be read, or is of another network.
    """
    if not config.resume.endswith(SOLVER_STATE):
        return None
    path = Path(config.resume)
    state = read_solverstate(path)
    model = _learned_net(path, state.learned_net)
    weights = read_weights(model)
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    if len(state.momenta) != len(shapes):
        raise UserError(
            f"{path} holds {len(state.momenta)} momenta, the network has {len(shapes)} blobs; "
            "it is of another network, or of a solver other than SGD"
        )
    momenta = dict(zip(shapes, map(torch.from_numpy, state.momenta), strict=True))
    return Checkpoint(
        path=path,
        progress=dataclasses.replace(fresh, iteration=state.iteration),
        config=config,
        tensors={name: _fit(weights.get(name), shape, name, model) for name, shape in shapes.items()},
        slots={MOMENTUM: {name: _fit(momenta[name], shape, name, path) for name, shape in shapes.items()}},
        scalars={},
        means=means,
    )


def _learned_net(state: Path, recorded: str) -> Path:
    """Finds the .caffemodel that a state names: as Caffe wrote it, else beside the state."""
    places = [Path(recorded), state.with_name(Path(recorded).name)] if recorded else []
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"{state} needs its weights, {recorded or 'whose name it lacks'}; put that file beside it")


def _fit(blob: torch.Tensor | None, shape: torch.Size, name: str, path: Path) -> torch.Tensor:
    if blob is None or not shapes_agree(blob.shape, shape):
        found = "no such layer" if blob is None else "x".join(map(str, blob.shape))
        raise UserError(f"{path}: the run asks for {name} of {'x'.join(map(str, shape))}, the file has {found}")
    return blob.reshape(shape)


def changed_settings(before: Config, now: Config) -> list[str]:
    """Returns a line for each setting that a run goes on with otherwise than it was, and that its course hangs on."""
    was, lines = dict(_settings(before)), list[str]()
    for key, value in _settings(now):
        unused = key.startswith("deepspeed.") and now.engine != "deepspeed"
        if value == was[key] or unused or _is_one_of(key, _WITHOUT_EFFECT):
            continue
        line = f"{key} was {json.dumps(was[key])}, is {json.dumps(value)}"
        if _is_one_of(key, (_MEAN,)):
            lines.append(f"{line}, but the checkpoint's own mean goes on being subtracted")
        elif _is_one_of(key, _ORDER):
            lines.append(f"{line} from here on, and with it which pictures come next")
        else:
            lines.append(f"{line} from here on")
    return lines


def _settings(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 -- a dataclass, or what it holds
    """Yields every setting with its dotted key."""
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from _settings(item, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, [dataclasses.asdict(rule) for rule in item] if field.name == "layers" else item


def _is_one_of(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def check_resumed_data(checkpoint: Checkpoint, config: Config, classes: tuple[str, ...], index: str) -> None:
    """Sees that a run may go on with these pictures.

    Raises:
        UserError: they are others than the checkpoint's.
    """
    theirs = checkpoint.progress
    if len(classes) != len(theirs.classes):
        raise UserError(
            f"{checkpoint.path} was trained on {len(theirs.classes)} classes, {config.data.shards} has {len(classes)}; "
            "use another --run_dir"
        )
    for label, (ours, other) in enumerate(zip(classes, theirs.classes, strict=True)):
        if ours != other:
            raise UserError(
                f"{checkpoint.path} was trained with class {label} called {other!r}, {config.data.shards} calls it "
                f"{ours!r}; use another --run_dir"
            )
    if config.data.split != checkpoint.config.data.split:
        raise UserError(
            f"{checkpoint.path} was trained on split {checkpoint.config.data.split!r}, not {config.data.split!r}; "
            "use another --run_dir"
        )
    if index != theirs.index and not config.checkpoint.allow_other_index:
        raise UserError(
            f"{checkpoint.path} was trained on another index than {config.data.shards} now has; use another --run_dir, "
            "or go on all the same with --checkpoint.allow_other_index=true"
        )
