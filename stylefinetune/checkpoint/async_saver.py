"""Saves checkpoints during training: training pauses for a copy of the state, and a thread writes the copy."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from stylefinetune.checkpoint.atomic_folder import remove_folder
from stylefinetune.checkpoint.checkpoint import Progress, save_checkpoint
from stylefinetune.checkpoint.folders import (
    best_checkpoint,
    iteration_of,
    link_best,
    list_checkpoints,
    newest_checkpoint,
)
from stylefinetune.config.schema import CheckpointConfig, Config
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import RankError


class AsyncSaver:
    """Saves the checkpoints of a run from rank 0 and removes the old ones. `progress` is saved already.

    A thread calls `on_saved` with the path of each complete checkpoint.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        means: tuple[torch.Tensor, torch.Tensor],
        progress: Progress,
        on_saved: Callable[[Path], None],
    ) -> None:
        self._config = config
        self._world = world
        self._means = means
        self._saved = progress
        self._on_saved = on_saved
        self._copies: dict[str, torch.Tensor] = {}
        self._writing: Future[None] | None = None
        # One thread for the whole run, started before the loaders: in CPython 3.11, a process that is forked while a
        # thread starts or ends may hang.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writer.submit(int).result()

    def is_saved(self, progress: Progress) -> bool:
        """Return whether `progress` is the progress last saved, or that of the start."""
        return (progress.iteration, progress.tests) == (self._saved.iteration, self._saved.tests)

    def save(self, progress: Progress, state: EngineState) -> float:
        """Copy `state` and write it in the background, after the previous checkpoint is written.

        Returns:
            The pause of training in seconds.
        """
        began = time.monotonic()
        self._saved = progress
        if self._world.is_main:
            self.wait()
            copy = self._copy(state)
            self._writing = self._writer.submit(self._write, progress, copy)
        return time.monotonic() - began

    def raise_failure(self) -> None:
        """Raise the error of the last write, if it has failed by now."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            RankError: it cannot be written.
        """
        if self._writing is not None:
            self._writing.result()

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, after waiting for the last write."""
        self.wait()
        return newest_checkpoint(Path(self._config.run_dir))

    def _copy(self, state: EngineState) -> EngineState:
        """Copy to host memory, which is allocated once, and page-locked if there is a GPU."""
        on_gpu = self._world.device.type == "cuda"

        def to_host(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            copies: dict[str, torch.Tensor] = {}
            for name, tensor in tensors.items():
                key = f"{kind}/{name}"
                if key not in self._copies:
                    self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
                copies[name] = self._copies[key].copy_(tensor.detach(), non_blocking=on_gpu)
            return copies

        copy = EngineState(
            parameters=to_host("parameters", state.parameters),
            buffers=to_host("buffers", state.buffers),
            slots={slot: to_host(slot, tensors) for slot, tensors in state.slots.items()},
            scalars=state.scalars,
        )
        if on_gpu:
            torch.cuda.synchronize(self._world.device)
        return copy

    def _write(self, progress: Progress, state: EngineState) -> None:
        run_dir = Path(self._config.run_dir)
        path = save_checkpoint(run_dir, progress, state, self._config, self._means)
        self._on_saved(path)
        try:
            found = list_checkpoints(run_dir)
            old = checkpoints_to_remove(found, path, progress.tests, self._config.checkpoint)
            kept = [checkpoint for checkpoint in found if checkpoint not in old]
            best = best_checkpoint(kept, progress.tests, self._config.checkpoint.best_metric)
            if best:
                link_best(run_dir, best)
            for checkpoint in old:
                remove_folder(checkpoint)
        except OSError as error:
            raise RankError(f"{error.filename} can't be removed: {error.strerror}; remove it by hand") from error


def checkpoints_to_remove(
    found: list[Path], latest: Path, tests: list[dict[str, float]], config: CheckpointConfig
) -> list[Path]:
    """Return the checkpoints of `found`, highest iteration first, to remove after `latest` is written."""
    if config.keep_last == 0:
        return []
    kept = {latest, *found[: config.keep_last]}
    if config.keep_every:
        kept |= {path for path in found if iteration_of(path) % config.keep_every == 0}
    if config.keep_best:
        kept.add(best_checkpoint(found, tests, config.best_metric) or latest)
    return [path for path in found if path not in kept]


def is_finite(state: EngineState, world: World) -> bool:
    """Return whether all numbers of `state` are finite, the same on each rank; collective, and waits for the device."""
    tensors = [*state.parameters.values(), *state.buffers.values()]
    tensors += [tensor for named in state.slots.values() for tensor in named.values()]
    # A minimum or maximum is NaN or infinite if any number is; isfinite would allocate a flag for each number.
    extremes = torch.stack([value.double() for tensor in tensors for value in torch.aminmax(tensor)])
    return bool(world.min(extremes.isfinite().all().to(torch.int64)).item())
