"""Reads and writes checkpoints, the folders RUN/checkpoints/iter_N.

The files are the same for every engine and number of ranks:
- model.safetensors: parameters and buffers
- optimizer.safetensors: slots of the optimizer, such as momentum_buffer or exp_avg, and the average of the weights
- progress.json: the progress of the run
- config.yaml: the settings of the run
- mean.safetensors: what is subtracted from training and from test pictures
- manifest.json: a checksum of each file, verified by each read

predict and evaluate need nothing else. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stylefinetune.checkpoint.atomic_folder import DamagedFolderError, verify_folder, write_folder
from stylefinetune.checkpoint.folders import BEST, LAST, PROGRESS, checkpoint_path, find_checkpoint_folder
from stylefinetune.config.cli import dump_config, load_config
from stylefinetune.config.schema import Config
from stylefinetune.data.transforms import Transform
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import UserError, joined_sizes, write_error
from stylefinetune.models.build import build_model
from stylefinetune.models.state import load_tensors
from stylefinetune.models.weight_files import save_tensors
from stylefinetune.optim.weight_average import EMA

MODEL_FILE, OPTIMIZER_FILE, MEAN = "model.safetensors", "optimizer.safetensors", "mean.safetensors"
CONFIG = "config.yaml"
SCALARS = "scalars"  # key of progress.json in addition to the fields of Progress
PHASES = ("train", "test")
ATTEMPTS = 10  # to read a checkpoint of a run that removes old ones

Found = TypeVar("Found")


class DamagedCheckpointError(UserError):
    """A checkpoint is damaged."""


class RemovedCheckpointError(UserError):
    """A checkpoint was removed while it was read, by its own run."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    iteration: int  # number of iterations done
    losses: list[float]  # the last train.average_loss losses, oldest first
    tests: list[dict[str, float]]  # iteration, accuracy and loss of each test so far
    seed: int
    classes: list[str]  # names in label order
    index: str  # fingerprint of the index of the training data
    picture_size: list[int]  # (height, width) of test pictures in pixels, before the crop
    input_size: list[int]  # (height, width) of the network's input in tests, in pixels
    corrupt: list[int] = dataclasses.field(default_factory=list)  # rows of the training split that cannot be decoded


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint."""

    path: Path
    progress: Progress
    config: Config
    tensors: dict[str, torch.Tensor]  # parameters and buffers by name
    slots: dict[str, dict[str, torch.Tensor]]  # optimizer state: slot -> name of the parameter -> tensor
    scalars: dict[str, float]  # see EngineState
    means: tuple[torch.Tensor, torch.Tensor]  # subtracted from training and from test pictures, see data.mean
    skipped: tuple[str, ...] = ()  # a line for each newer checkpoint of the run that is damaged

    def build_network(self, device: torch.device) -> tuple[nn.Module, Transform]:
        """Return the trained network in evaluation mode, and the transform from pictures to its input."""
        height, width = self.progress.input_size
        net = build_model(self.config.model, len(self.progress.classes), [(height, width)], seed=0)
        load_tensors(net, self.tensors)
        phase = self.config.data.phase(training=False)
        return net.to(device).eval(), Transform.for_phase(self.means[1], phase, device)

    def with_weights(self, *, ema: bool) -> "Checkpoint":
        """Return the checkpoint; with `ema`, the average of the weights replaces the weights, if it has one."""
        return dataclasses.replace(self, tensors=self.slots[EMA]) if ema and EMA in self.slots else self

    def engine_state(self, like: EngineState, optimizer: str) -> EngineState:
        """Return the state for an engine with the tensors of `like` and this optim.optimizer.

        If the checkpoint is of another optimizer, the state has no slots of it: those of the two may only share a name.

        Raises:
            UserError: the engine has another network.
        """
        for name, tensor in (like.parameters | like.buffers).items():
            saved = self.tensors.get(name)
            if saved is None or saved.shape != tensor.shape:
                size = "no such layer" if saved is None else joined_sizes(saved.shape)
                raise UserError(
                    f"{self.path}: the run needs {name} of {joined_sizes(tensor.shape)}, the checkpoint has "
                    f"{size}; train with its config, or into another --run_dir with --weights {self.path}"
                )
        return EngineState(
            parameters={name: self.tensors[name] for name in like.parameters},
            buffers={name: self.tensors[name] for name in like.buffers},
            slots={
                slot: tensors
                for slot, tensors in self.slots.items()
                if optimizer == self.config.optim.optimizer or slot == EMA
            },
            scalars=self.scalars,
        )


def save_checkpoint(
    run_dir: Path, progress: Progress, state: EngineState, config: Config, means: tuple[torch.Tensor, torch.Tensor]
) -> Path:
    """Write a checkpoint atomically and return its folder.

    Raises:
        RankError: it cannot be written; an earlier checkpoint of this iteration remains.
    """

    def write(folder: Path) -> None:
        slots = {f"{slot}/{name}": tensor for slot, named in state.slots.items() for name, tensor in named.items()}
        save_tensors(_contiguous(state.parameters | state.buffers), folder / MODEL_FILE)
        save_tensors(_contiguous(slots), folder / OPTIMIZER_FILE)
        save_tensors({name: mean.clone() for name, mean in zip(PHASES, means, strict=True)}, folder / MEAN)
        content = {**dataclasses.asdict(progress), SCALARS: state.scalars}
        (folder / PROGRESS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(dump_config(config), encoding="utf-8")

    path = checkpoint_path(run_dir, progress.iteration)
    try:
        write_folder(path, write)
    except OSError as error:
        raise write_error(path, error.strerror or str(error)) from error
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint that `path` names, see find_checkpoint_folder; the run may be training.

    Raises:
        UserError: there is none.
        DamagedCheckpointError: it is damaged.
    """
    return retry_while_replaced(lambda: read_checkpoint_folder(_folder_of(path)))


def retry_while_replaced(find: Callable[[], Found]) -> Found:
    """Call `find` again if the checkpoint that it found was removed meanwhile."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(RemovedCheckpointError):
            return find()
    return find()


def _folder_of(path: Path) -> Path:
    folder = find_checkpoint_folder(path)
    if folder is None:
        raise UserError(f"{path} is neither a checkpoint nor a run's folder with {_wanted(path)}")
    return folder


def _wanted(path: Path) -> str:
    """Return what a path asks for, such as a tested checkpoint."""
    name = path.name.rpartition(":")[2] if ":" in path.name else LAST
    return {LAST: "a checkpoint", BEST: "a tested checkpoint"}.get(name, f"a checkpoint called {name!r}")


def read_checkpoint_folder(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    Raises:
        DamagedCheckpointError: it is damaged.
        RemovedCheckpointError: it was removed meanwhile.
    """
    try:
        return _read(folder)
    except (UserError, RuntimeError) as error:  # safetensors raises RuntimeError for a file that is gone
        if folder.exists():
            raise
        raise RemovedCheckpointError(
            f"{folder} was removed by its run while it was read; raise the run's checkpoint.keep_last"
        ) from error


def _read(folder: Path) -> Checkpoint:
    try:
        verify_folder(folder)
        slots: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
            slot, _, name = key.partition("/")
            slots.setdefault(slot, {})[name] = tensor
        means = load_file(folder / MEAN)
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        scalars = content.pop(SCALARS, {})
        return Checkpoint(
            path=folder,
            progress=Progress(**content),
            config=load_config(folder / CONFIG),
            tensors=load_file(folder / MODEL_FILE),
            slots=slots,
            scalars=scalars,
            means=(means["train"], means["test"]),
        )
    except (DamagedFolderError, OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged ({error}); remove it, or name another checkpoint") from error


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
