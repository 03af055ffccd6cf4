"""Decides whether the pictures of a run are kept in the memory of the device, and decodes them into it."""

import torch

from stylefinetune.config.schema import Config
from stylefinetune.data.resident import ResidentLoader, resident_bytes
from stylefinetune.data.staging.stream import is_streamed
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError
from stylefinetune.training.loaders import Loaders
from stylefinetune.training.setup import TrainingRun

_FRACTION = 0.75  # of the GPU's free memory that pictures may take; the network and its activations need the rest


def load_resident(run: TrainingRun, start: int) -> Loaders | None:
    """Decode all pictures of a run into the memory of each rank's device; collective.

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
        reason = "each training picture is cut or changed anew whenever it is read"
        if run.config.data.resident:
            raise UserError(f"data.resident is true, but {reason}; remove it, or set it to false")
        run.tracker.log(f"Pictures are read for each batch: {reason}")
        return None
    needed, count = sum(map(resident_bytes, sets)), sum(len(dataset.entries) for dataset in sets)
    lacking = _describe_lack(needed, run.world)
    if lacking and run.config.data.resident:
        raise UserError(f"data.resident is true, but {lacking}; remove it, or set data.resident to false")
    if lacking:
        run.tracker.log(f"Pictures are read for each batch: {lacking}")
        return None
    run.tracker.log(f"Decoding {count:,} pictures into memory, {needed / 1e9:.1f} GB on each rank's device")
    loaders = [ResidentLoader(dataset, run.world.device) for dataset in sets]
    for loader in loaders:
        _fill(loader, run, start)
    return Loaders(loaders[0], loaders[1] if run.test_set else None)


def _is_worthwhile(config: Config, world: World, pictures: int, start: int) -> bool:
    """Return whether the pictures are wanted in memory: by default, on a GPU, if the run reads them all."""
    if config.data.resident is not None:
        return config.data.resident
    if is_streamed(config.data):  # in another order, and only once
        return False
    read = (config.train.max_iter - start) * config.train.iter_size * config.data.batch_size
    return world.device.type == "cuda" and read >= pictures


def _describe_lack(needed: int, world: World) -> str:
    """Return why a rank's GPU can't take `needed` bytes; empty if all can, or if the ranks have no GPUs; collective."""
    if world.device.type != "cuda":
        return ""
    free = int(world.min(torch.tensor(torch.cuda.mem_get_info(world.device)[0])).item())
    if needed <= _FRACTION * free:
        return ""
    return f"they need {needed / 1e9:.1f} GB, more than {_FRACTION:.0%} of a GPU's free memory of {free / 1e9:.1f} GB"


def _fill(loader: ResidentLoader, run: TrainingRun, start: int) -> None:
    """Decode the pictures of a loader; collective."""
    run.world.drain_collectives()
    for _ in loader.fill(run.config.data.workers):
        run.world.set_activity("decoding pictures into memory", start)
        if run.preemption.requested() and run.preemption.signal:
            line = f"stopped by {run.preemption.signal.name} while decoding pictures into memory"
            raise Stopped(run.preemption.signal, f"{line}; run the same command again to continue")
