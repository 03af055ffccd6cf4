"""Checkpoints: a folder RUN/checkpoints/iter_N, the same files whichever engine and however many ranks wrote it.

model.safetensors holds parameters and buffers, optimizer.safetensors the optimizer's slots, progress.json where the run
stands, config.yaml its settings, mean.safetensors what is subtracted from pictures: predict and evaluate need no more.
Nothing is ever unpickled.
"""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stylefinetune import config_io, models
from stylefinetune.caffe_files import read_solverstate
from stylefinetune.config import Config
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import RankError, UserError
from stylefinetune.optimizer import MOMENTUM
from stylefinetune.transforms import Transform
from stylefinetune.weights import read_weights, shapes_agree

MODEL, OPTIMIZER, MEAN = "model.safetensors", "optimizer.safetensors", "mean.safetensors"
PROGRESS, CONFIG = "progress.json", "config.yaml"
PHASES = ("train", "test")
SOLVER_STATE = ".solverstate"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        iteration: iterations done.
        losses: the last ones, as many as train.average_loss, oldest first.
        tests: each test so far: iteration, accuracy, loss.
        seed: the run's.
        classes: class names in label order.
        index: fingerprint of the index that the run is trained on.
        picture_size: (height, width) in pixels that test pictures have before they are cut.
        input_size: (height, width) in pixels of what the network is given in testing.
    """

    iteration: int
    losses: list[float]
    tests: list[dict[str, float]]
    seed: int
    classes: list[str]
    index: str
    picture_size: list[int]
    input_size: list[int]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: its folder.
        progress: where its run stood.
        config: its run's.
        tensors: parameters and buffers by name.
        slots: the optimizer's: slot -> parameter's name -> tensor.
        means: what is subtracted from pictures in training and in testing, see data.load_mean.
    """

    path: Path
    progress: Progress
    config: Config
    tensors: dict[str, torch.Tensor]
    slots: dict[str, dict[str, torch.Tensor]]
    means: tuple[torch.Tensor, torch.Tensor]

    def network(self, device: torch.device) -> tuple[nn.Module, Transform]:
        """Returns the trained network in testing mode, and the transform that makes its input."""
        height, width = self.progress.input_size
        net = models.build(self.config.model, len(self.progress.classes), [(height, width)], seed=0)
        net.load_state_dict(self.tensors)
        scale = self.config.data.phase(training=False).scale
        return net.to(device).eval(), Transform(self.means[1], scale, device)

    def engine_state(self, like: EngineState) -> EngineState:
        """Returns the state for an engine whose own state is `like`.

        Raises:
            UserError: the engine's network is another one.
        """
        for name, tensor in (like.parameters | like.buffers).items():
            theirs = self.tensors.get(name)
            if theirs is None or theirs.shape != tensor.shape:
                size = "no such layer" if theirs is None else "x".join(map(str, theirs.shape))
                raise UserError(
                    f"{self.path}: the run asks for {name} of {'x'.join(map(str, tensor.shape))}, the checkpoint has "
                    f"{size}; train with its config, or into another --run_dir with --weights {self.path}"
                )
        return EngineState(
            parameters={name: self.tensors[name] for name in like.parameters},
            buffers={name: self.tensors[name] for name in like.buffers},
            slots=self.slots,
        )


def save(
    run_dir: Path, progress: Progress, state: EngineState, config: Config, means: tuple[torch.Tensor, torch.Tensor]
) -> Path:
    """Writes a checkpoint beside and renames it, so that a folder of that name is always whole.

    Raises:
        RankError: the disk is full, or refuses; what was there before stays.
    """
    final = path_of(run_dir, progress.iteration)
    beside = final.with_name(f".{final.name}")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _write(beside, progress, state, config, means)
        shutil.rmtree(final, ignore_errors=True)
        beside.rename(final)
        _sync(final.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise RankError(f"{final} can't be written ({error}); make room, and the same command goes on") from error
    return final


def _write(
    folder: Path, progress: Progress, state: EngineState, config: Config, means: tuple[torch.Tensor, torch.Tensor]
) -> None:
    slots = {f"{slot}/{name}": tensor for slot, named in state.slots.items() for name, tensor in named.items()}
    save_file(_owned(state.parameters | state.buffers), folder / MODEL)
    save_file(_owned(slots), folder / OPTIMIZER)
    save_file({name: mean.clone() for name, mean in zip(PHASES, means, strict=True)}, folder / MEAN)
    (folder / PROGRESS).write_text(json.dumps(dataclasses.asdict(progress), indent=1) + "\n", encoding="utf-8")
    (folder / CONFIG).write_text(config_io.dump(config), encoding="utf-8")
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def path_of(run_dir: Path, iteration: int) -> Path:
    """Returns where the checkpoint after `iteration` iterations lies."""
    return run_dir / "checkpoints" / f"iter_{iteration}"


def newest(run_dir: Path) -> Path | None:
    """Returns the checkpoint of the run that is furthest on, or None."""
    found = [path for path in (run_dir / "checkpoints").glob("iter_*") if re.fullmatch(r"iter_\d+", path.name)]
    return max(found, key=lambda path: int(path.name.removeprefix("iter_")), default=None)


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint, or the newest one of a run's folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = path if (path / PROGRESS).is_file() else newest(path)
    if folder is None:
        raise UserError(f"{path} is neither a checkpoint nor a run's folder with one in it")
    try:
        slots: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(folder / OPTIMIZER).items():
            slot, _, name = key.partition("/")
            slots.setdefault(slot, {})[name] = tensor
        means = load_file(folder / MEAN)
        return Checkpoint(
            path=folder,
            progress=Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8"))),
            config=config_io.load(folder / CONFIG),
            tensors=load_file(folder / MODEL),
            slots=slots,
            means=(means["train"], means["test"]),
        )
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged ({error}); remove it, or name another checkpoint") from error


def find(config: Config) -> Checkpoint | None:
    """Returns the checkpoint that `config.resume` asks to go on from; None starts afresh, or from a solver state.

    A Caffe solver's state is where a run starts: once it has checkpoints of its own, it goes on from those.

    Raises:
        UserError: it asks for one that isn't there, or to start afresh where a run lies already.
    """
    run_dir = Path(config.run_dir)
    last = newest(run_dir)
    if config.resume.endswith(SOLVER_STATE):
        found = read(last) if last is not None else None
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
        return read(last) if last is not None else None
    return read(Path(config.resume))


def restore_caffe(
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


def check_data(checkpoint: Checkpoint, config: Config, classes: tuple[str, ...], index: str) -> None:
    """Sees that a run may go on with these pictures.

    Raises:
        UserError: they are others than the checkpoint's.
    """
    theirs = checkpoint.progress
    if list(classes) != theirs.classes:
        raise UserError(
            f"{checkpoint.path} was trained on {len(theirs.classes)} classes ({', '.join(theirs.classes[:3])}, ...), "
            f"{config.data.shards} has {len(classes)} ({', '.join(classes[:3])}, ...); use another --run_dir"
        )
    if index != theirs.index and not config.checkpoint.allow_other_index:
        raise UserError(
            f"{checkpoint.path} was trained on another index than {config.data.shards} now has; use another --run_dir, "
            "or go on all the same with --checkpoint.allow_other_index=true"
        )


def _owned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
