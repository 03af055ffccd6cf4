"""Decides whether the pictures of a run are kept in the memory of the devices, and decodes them into it."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Self

import torch

from shards.format import counted
from shards.format.order import rank_slice
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.data.resident.loader import ResidentLoader
from stylefinetune.data.resident.pictures import READ_TOGETHER, ResidentPictures, resident_bytes
from stylefinetune.data.resident.shares import SharedLoader
from stylefinetune.data.staging.stream import is_streamed
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError
from stylefinetune.training.loaders import Loader, Loaders
from stylefinetune.training.run import TrainingRun

_FRACTION = 0.75  # of the GPU's free memory that pictures may take; the network and its activations need the rest


def load_resident(run: TrainingRun, start: int) -> Loaders | None:
    """Decode all pictures of a run into the memory of the ranks' devices; collective.

    Args:
        run: the run.
        start: its first iteration.

    Returns:
        None if processes are to read each batch instead.

    Raises:
        UserError: data.resident is true, but the memory doesn't suffice; or a picture's shard can't be read.
        Stopped: a signal asked the run to stop.
    """
    sets = [dataset for dataset in (run.train_set, run.test_set) if dataset]
    if not _is_worthwhile(run.config, run.world, len(run.train_set.entries), start):
        return None
    if not run.train_set.is_fixed:
        return _read_instead(run, "each training picture is cut or changed anew whenever it is read")
    place = _Placement.choose(sets, run.world)
    if place.lack:
        return _read_instead(run, place.lack)
    if place.is_shared and not run.config.data.resident:  # not by default, since it has never run on GPUs
        return _read_instead(run, "they are too many for one GPU; data.resident true gives each rank a share of them")
    count, held = sum(len(dataset.entries) for dataset in sets), f"{place.size / 1e9:.1f} GB on each rank's device"
    sent = "; the ranks send each other what they need" if place.is_shared else ""
    run.tracker.log(f"Decoding {counted(count, 'picture')} into memory, {held}{sent}")
    loaders = [_fill(dataset, run, start, shared=place.is_shared) for dataset in sets]
    return Loaders(loaders[0], loaders[1] if run.test_set else None)


def _read_instead(run: TrainingRun, reason: str) -> None:
    if run.config.data.resident:
        raise UserError(f"data.resident is true, but {reason}; remove it, or set it to false")
    run.tracker.log(f"Pictures are read for each batch: {reason}")


def _is_worthwhile(config: Config, world: World, pictures: int, start: int) -> bool:
    """Return whether the pictures are wanted in memory: by default, on a GPU, if the run reads them all."""
    if config.data.resident is not None:
        return config.data.resident
    if is_streamed(config.data):  # in another order, and only once
        return False
    read = (config.train.max_iter - start) * config.pictures_per_iteration
    return world.device.type == "cuda" and read >= pictures


@dataclasses.dataclass(frozen=True)
class _Placement:
    """Where the pictures are kept."""

    is_shared: bool  # whether each rank holds a share of them; otherwise, each holds all
    size: int  # bytes that each rank holds
    lack: str  # why the memory doesn't suffice for that; empty if it does

    @classmethod
    def choose(cls, sets: Sequence[PictureDataset], world: World) -> Self:
        """Let each rank hold all pictures if its GPU has the memory, and otherwise a share; collective."""
        whole, share = (
            sum(resident_bytes(dataset, math.ceil(len(dataset.entries) / parts)) for dataset in sets)
            for parts in (1, world.size)
        )
        free = _free_memory(world)
        if whole <= _FRACTION * free:
            return cls(is_shared=False, size=whole, lack="")
        if share <= _FRACTION * free:
            return cls(is_shared=True, size=share, lack="")
        need = f"they need {share / 1e9:.1f} GB{' on each rank' if world.size > 1 else ''}"
        lack = f"{need}, more than {_FRACTION:.0%} of a GPU's free memory of {free / 1e9:.1f} GB"
        return cls(is_shared=True, size=share, lack=lack)


def _free_memory(world: World) -> float:
    """Return the free bytes of the fullest GPU, or infinity if the ranks have no GPUs; collective."""
    if world.device.type != "cuda":
        return math.inf
    return world.min(torch.tensor(torch.cuda.mem_get_info(world.device)[0])).item()


def _fill(dataset: PictureDataset, run: TrainingRun, start: int, *, shared: bool) -> Loader:
    """Decode the pictures of a dataset, or this rank's share of them; collective."""
    world, count = run.world, len(dataset.entries)
    rows = rank_slice(count, world.rank, world.size) if shared else slice(0, count)
    pictures = ResidentPictures(dataset, rows, world.device)
    world.drain_collectives()
    largest = len(range(count)[rank_slice(count, 0, world.size)]) if shared else count
    # As often on each rank, since each request is collective.
    for _ in itertools.zip_longest(pictures.fill(run.config.data.workers), range(0, largest, READ_TOGETHER)):
        world.set_activity("decoding pictures into memory", start)
        if run.preemption.requested() and run.preemption.signal:
            line = f"stopped by {run.preemption.signal.name} while decoding pictures into memory"
            raise Stopped(run.preemption.signal, f"{line}; run the same command again to continue")
    return SharedLoader(pictures, world) if shared else ResidentLoader(pictures)
