"""Checkpoints: a folder RUN/checkpoints/iter_N, the same files whichever engine and however many ranks wrote it.

model.safetensors holds parameters and buffers, optimizer.safetensors the optimizer's slots, progress.json where the run
stands, config.yaml its settings, mean.safetensors what is subtracted from pictures: predict and evaluate need no more.
manifest.json holds a checksum of each, which reading checks. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stylefinetune.checkpoint.atomic_folder import DamagedFolderError, verify_folder, write_folder
from stylefinetune.config.cli import dump_config, load_config
from stylefinetune.config.schema import Config
from stylefinetune.data.transforms import Transform
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import RankError, UserError
from stylefinetune.models.build import build_model

MODEL_FILE, OPTIMIZER_FILE, MEAN = "model.safetensors", "optimizer.safetensors", "mean.safetensors"
PROGRESS, CONFIG = "progress.json", "config.yaml"
SCALARS = "scalars"  # in progress.json, beside what Progress has
SERIALIZING = "Error while serializing: I/O error: "  # how safetensors tells of the system's
PHASES = ("train", "test")
ATTEMPTS = 10  # at finding a checkpoint that its run does not clear away meanwhile

Found = TypeVar("Found")


class DamagedCheckpointError(UserError):
    """A checkpoint isn't as it was written."""


class RemovedCheckpointError(UserError):
    """A checkpoint was removed while it was read: what a run that trains does to its old ones."""


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
        corrupt: rows of the training split that couldn't be decoded.
    """

    iteration: int
    losses: list[float]
    tests: list[dict[str, float]]
    seed: int
    classes: list[str]
    index: str
    picture_size: list[int]
    input_size: list[int]
    corrupt: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: its folder.
        progress: where its run stood.
        config: its run's.
        tensors: parameters and buffers by name.
        slots: the optimizer's: slot -> parameter's name -> tensor.
        scalars: see EngineState.
        means: what is subtracted from pictures in training and in testing, see data.load_mean.
        passed_over: what is wrong with newer ones of its run, a line each.
    """

    path: Path
    progress: Progress
    config: Config
    tensors: dict[str, torch.Tensor]
    slots: dict[str, dict[str, torch.Tensor]]
    scalars: dict[str, float]
    means: tuple[torch.Tensor, torch.Tensor]
    passed_over: tuple[str, ...] = ()

    def network(self, device: torch.device) -> tuple[nn.Module, Transform]:
        """Returns the trained network in testing mode, and the transform that makes its input."""
        height, width = self.progress.input_size
        net = build_model(self.config.model, len(self.progress.classes), [(height, width)], seed=0)
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
            scalars=self.scalars,
        )


def save_checkpoint(
    run_dir: Path, progress: Progress, state: EngineState, config: Config, means: tuple[torch.Tensor, torch.Tensor]
) -> Path:
    """Writes a checkpoint, which is there whole or not at all.

    Raises:
        RankError: the disk is full, or refuses; what was there before stays.
    """
    final = checkpoint_path(run_dir, progress.iteration)
    try:
        write_folder(final, lambda folder: _write(folder, progress, state, config, means))
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).removeprefix(SERIALIZING)
        raise RankError(f"{final} can't be written ({reason}); make room, and the same command goes on") from error
    return final


def _write(
    folder: Path, progress: Progress, state: EngineState, config: Config, means: tuple[torch.Tensor, torch.Tensor]
) -> None:
    slots = {f"{slot}/{name}": tensor for slot, named in state.slots.items() for name, tensor in named.items()}
    save_file(_owned(state.parameters | state.buffers), folder / MODEL_FILE)
    save_file(_owned(slots), folder / OPTIMIZER_FILE)
    save_file({name: mean.clone() for name, mean in zip(PHASES, means, strict=True)}, folder / MEAN)
    stands = {**dataclasses.asdict(progress), SCALARS: state.scalars}
    (folder / PROGRESS).write_text(json.dumps(stands, indent=1) + "\n", encoding="utf-8")
    (folder / CONFIG).write_text(dump_config(config), encoding="utf-8")


def checkpoint_path(run_dir: Path, iteration: int) -> Path:
    """Returns where the checkpoint after `iteration` iterations lies."""
    return run_dir / "checkpoints" / f"iter_{iteration}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Returns the run's checkpoints, the one furthest on first."""
    return sorted(filter(_is_named, (run_dir / "checkpoints").glob("iter_*")), key=iteration_of, reverse=True)


def _is_named(path: Path) -> bool:
    """Says whether `path` is called as checkpoints are."""
    return re.fullmatch(r"iter_\d+", path.name) is not None


def iteration_of(path: Path) -> int:
    """Returns how many iterations were done when the checkpoint at `path` was written."""
    return int(path.name.removeprefix("iter_"))


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Returns the checkpoint of the run that is furthest on, or None."""
    return next(iter(list_checkpoints(run_dir)), None)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, or the newest one of a run's folder, where the run may be training.

    Raises:
        UserError: there is none.
        DamagedCheckpointError: it is damaged.
    """
    return retry_while_replaced(lambda: read_checkpoint_folder(_folder_of(path)))


def retry_while_replaced(find: Callable[[], Found]) -> Found:
    """Calls `find` anew where the checkpoint that it came upon was removed under its hands."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(RemovedCheckpointError):
            return find()
    return find()


def _folder_of(path: Path) -> Path:
    folder = path if (path / PROGRESS).is_file() else newest_checkpoint(path)
    if folder is None and _is_named(path) and path.exists():
        folder = path  # one whose progress.json is lost is damaged all the same
    if folder is None:
        raise UserError(f"{path} is neither a checkpoint nor a run's folder with one in it")
    return folder


def read_checkpoint_folder(folder: Path) -> Checkpoint:
    """Reads the checkpoint in `folder`.

    Raises:
        DamagedCheckpointError: it is damaged.
        GoneCheckpointError: it isn't there any more.
    """
    try:
        return _read(folder)
    except UserError as error:
        if folder.exists():
            raise
        raise RemovedCheckpointError(
            f"{folder} was removed while it was read; its run keeps too few: raise checkpoint.keep_last"
        ) from error


def _read(folder: Path) -> Checkpoint:
    try:
        verify_folder(folder)
        slots: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
            slot, _, name = key.partition("/")
            slots.setdefault(slot, {})[name] = tensor
        means = load_file(folder / MEAN)
        stands = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        scalars = stands.pop(SCALARS, {})
        return Checkpoint(
            path=folder,
            progress=Progress(**stands),
            config=load_config(folder / CONFIG),
            tensors=load_file(folder / MODEL_FILE),
            slots=slots,
            scalars=scalars,
            means=(means["train"], means["test"]),
        )
    except (DamagedFolderError, OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged ({error}); remove it, or name another checkpoint") from error


def _owned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
