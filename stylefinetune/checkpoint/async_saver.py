"""Saves a run while it trains: the state is copied in a short pause; a thread writes it and clears old ones away."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from stylefinetune.checkpoint.atomic_folder import remove_folder
from stylefinetune.checkpoint.checkpoint import (
    Progress,
    iteration_of,
    list_checkpoints,
    newest_checkpoint,
    save_checkpoint,
)
from stylefinetune.config.schema import CheckpointConfig, Config
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import RankError


class AsyncSaver:
    """The checkpoints of a run; the lead alone writes.

    Args:
        config: the run's.
        world: its ranks.
        means: what is subtracted from pictures, copied into each.
        progress: where the run stands already.
        on_saved: told the path of each that is whole on the disk; from a thread.
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
        # One thread for the whole run, started before any loader is: CPython 3.11 hangs in a process that is forked
        # in the moment in which another thread begins or ends.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writer.submit(int).result()

    def has(self, progress: Progress) -> bool:
        """Says whether there is nothing in `progress` that wasn't saved, or the run's start."""
        return (progress.iteration, progress.tests) == (self._saved.iteration, self._saved.tests)

    def save(self, progress: Progress, state: EngineState) -> float:
        """Copies `state` and lets it be written in the background, once the one before is written.

        Returns:
            The seconds that training stood still for it.
        """
        began = time.monotonic()
        self._saved = progress
        if self._world.is_main:
            self.wait()
            copy = self._copy(state)
            self._writing = self._writer.submit(self._write, progress, copy)
        return time.monotonic() - began

    def check(self) -> None:
        """Raises what the background has met since, without waiting for it."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Waits until nothing is being written.

        Raises:
            RankError: the disk is full, or refuses.
        """
        if self._writing is not None:
            self._writing.result()

    def last(self) -> Path | None:
        """Returns the newest checkpoint that is whole, having waited for it."""
        self.wait()
        return newest_checkpoint(Path(self._config.run_dir))

    def _copy(self, state: EngineState) -> EngineState:
        """Copies to host memory, which is taken once and page-locked where there is a GPU."""
        on_gpu = self._world.device.type == "cuda"

        def held(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            copies: dict[str, torch.Tensor] = {}
            for name, tensor in tensors.items():
                key = f"{kind}/{name}"
                if key not in self._copies:
                    self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
                copies[name] = self._copies[key].copy_(tensor.detach(), non_blocking=on_gpu)
            return copies

        copy = EngineState(
            parameters=held("parameters", state.parameters),
            buffers=held("buffers", state.buffers),
            slots={slot: held(slot, tensors) for slot, tensors in state.slots.items()},
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
            for old in outdated(list_checkpoints(run_dir), path, progress.tests, self._config.checkpoint):
                remove_folder(old)
        except OSError as error:
            raise RankError(f"{error.filename} can't be removed: {error.strerror}; see to {run_dir}") from error


def outdated(found: list[Path], latest: Path, tests: list[dict[str, float]], config: CheckpointConfig) -> list[Path]:
    """Returns those of `found` that needn't be kept any more now that `latest` is whole.

    Args:
        found: the run's checkpoints, the one furthest on first.
        latest: the one just written.
        tests: the run's: iteration, accuracy.
        config: what to keep.
    """
    if config.keep_last == 0:
        return []
    kept = {latest, *found[: config.keep_last]}
    if config.keep_every:
        kept |= {path for path in found if iteration_of(path) % config.keep_every == 0}
    if config.keep_best:
        accuracy = {told["iteration"]: told["accuracy"] for told in tests}
        tested = [path for path in found if iteration_of(path) in accuracy]
        kept |= set(sorted(tested, key=lambda path: accuracy[iteration_of(path)])[-1:])
    return [path for path in found if path not in kept]


def is_finite(state: EngineState, world: World) -> bool:
    """Says whether every number of `state` is finite, to all ranks alike; collective, and waits for the device."""
    tensors = [*state.parameters.values(), *state.buffers.values()]
    tensors += [tensor for named in state.slots.values() for tensor in named.values()]
    each = [tensor.isfinite().all() for tensor in tensors]
    return bool(world.min(torch.stack(each).all().to(torch.int64)).item())
