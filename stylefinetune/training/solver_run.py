"""Packs the pictures of a Caffe solver's run, which may take hours, after checking everything that can be checked."""

import dataclasses
from pathlib import Path

from torch import nn

from shards.format.images import BadPicture, measure_picture
from shards.format.index import INDEX_FILE
from stylefinetune.caffe.solver import SolverLists, find_solver_lists, pack_solver_lists
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.checkpoint.resume import find_checkpoint, restore_solverstate
from stylefinetune.config.data import PhaseConfig
from stylefinetune.config.schema import Config
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import check_engine
from stylefinetune.errors import UserError
from stylefinetune.models.weights import load_weights
from stylefinetune.training.plan import settle_length, settle_order
from stylefinetune.training.setup import build_checked_model, load_means

_SHOWN = 20  # missing pictures


@dataclasses.dataclass(frozen=True)
class UnpackedRun:
    """The checked input of a new run whose pictures are not packed yet."""

    config: Config  # with data.shuffle and train.max_iter settled
    net: nn.Module  # with initial weights
    pictures: dict[str, int]  # number of pictures by split
    resumed: Checkpoint | None  # the checkpoint or the solver's state to resume from


def pack_solver_pictures(config: Config, world: World) -> Config:
    """Pack the list files of a Caffe solver into shards and return the config that names the shards; collective.

    Raises:
        UserError: the run could not start with these pictures and settings; nothing is packed.
    """
    if not config.solver or config.data.shards:
        return config
    lists = find_solver_lists(config)

    def pack() -> None:
        if not (lists.shards / INDEX_FILE).is_file():
            unpacked = check_unpacked(config, lists)
            if config.weights and unpacked.resumed is None:
                load_weights(unpacked.net, config.weights, lambda _line: None)
            pack_solver_lists(lists)

    world.main_first(pack)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(lists.shards)))


def check_unpacked(config: Config, lists: SolverLists) -> UnpackedRun:
    """Check the engine, that the pictures exist, the mean, the network, the rules per layer and what is resumed.

    Raises:
        UserError: something is missing or inconsistent.
    """
    check_engine(config)
    paths = {split: _paths(text) for split, text in lists.texts.items()}
    for split, found in paths.items():
        if not found:
            raise UserError(f"{config.solver}: the net's list of the split {split} has no pictures")
    _check_exist([path for found in paths.values() for path in found])
    train, test = (config.data.phase(training=training) for training in (True, False))
    train_size = _picture_size(train, paths[train.split])
    test_size = _picture_size(test, paths.get(test.split, paths[train.split]))
    resumed = find_checkpoint(config)
    config = settle_length(settle_order(config, resumed), len(paths[train.split]))
    means = load_means(config, train_size, test_size)
    net = build_checked_model(config, lists.num_classes, train_size, test_size)
    initial = Progress(
        iteration=0,
        losses=[],
        tests=[],
        seed=config.train.seed,
        classes=[str(label) for label in range(lists.num_classes)],
        index="",
        picture_size=list(test_size),
        input_size=list(test.input_size(test_size)),
    )
    resumed = resumed or restore_solverstate(config, net, initial, means)
    return UnpackedRun(config, net, {split: len(found) for split, found in paths.items()}, resumed)


def _paths(text: str) -> list[str]:
    """Return the paths of a list of lines with a path and a label."""
    return [line.rsplit(maxsplit=1)[0] for line in text.splitlines() if line.strip()]


def _check_exist(paths: list[str]) -> None:
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"{len(missing):,} of the {len(paths):,} pictures of the net's lists are missing: "
            f"{', '.join(missing[:_SHOWN])}{more}; fix the lists or root_folder"
        )


def _picture_size(phase: PhaseConfig, paths: list[str]) -> tuple[int, int]:
    """Return the (height, width) of the pictures of a phase; without resizing, all are as large as the first one."""
    if phase.image_size:
        return phase.image_size
    try:
        _, width, height = measure_picture(Path(paths[0]).read_bytes())
    except BadPicture as error:
        raise UserError(f"{paths[0]}, of the net's list, can't be used: {error}; fix it or the list") from error
    return height, width
