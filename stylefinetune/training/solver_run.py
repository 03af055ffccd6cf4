"""Packs the pictures of a Caffe solver's run, which may take hours, after checking everything that can be checked."""

import dataclasses

from torch import nn

from shards.format.images import BadPicture, decode_picture
from stylefinetune.caffe.solver_lists import (
    SolverLists,
    SolverPicture,
    check_files_exist,
    find_solver_lists,
    pack_solver_lists,
)
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.checkpoint.resume import find_checkpoint, restore_solverstate
from stylefinetune.config.data import PhaseConfig
from stylefinetune.config.schema import Config
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import check_engine
from stylefinetune.errors import UserError
from stylefinetune.models.weights import load_weights
from stylefinetune.training.plan.resolve import resolve_length, resolve_order
from stylefinetune.training.preprocessing import resolve_preprocessing
from stylefinetune.training.setup import build_checked_model, load_means


@dataclasses.dataclass(frozen=True)
class UnpackedRun:
    """The checked input of a new run whose pictures are not packed yet."""

    config: Config  # with data.shuffle and train.max_iter resolved
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
        if not lists.is_packed:
            unpacked = check_unpacked(config, lists)
            if config.weights and unpacked.resumed is None:
                load_weights(unpacked.net, config.weights, lambda _line: None, unpacked.config.model.arch)
            pack_solver_lists(lists)

    world.main_first(pack)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(lists.shards)))


def check_unpacked(config: Config, lists: SolverLists) -> UnpackedRun:
    """Check the engine, that the pictures exist, the mean, the network, the rules per layer and what is resumed.

    Raises:
        UserError: something is missing or inconsistent.
    """
    check_engine(config)
    check_files_exist(lists)
    pictures: dict[str, list[SolverPicture]] = {}
    for picture in lists.pictures:
        pictures.setdefault(picture.split, []).append(picture)
    train, test = (config.data.phase(training=training) for training in (True, False))
    train_size = _picture_size(train, pictures[train.split][0])
    test_size = _picture_size(test, pictures.get(test.split, pictures[train.split])[0])
    resumed = find_checkpoint(config)
    config = resolve_preprocessing(config, resumed)
    config = resolve_length(resolve_order(config, resumed), len(pictures[train.split]))
    means = load_means(config, train_size, test_size)
    net, config = build_checked_model(config, lists.num_classes, train_size, test_size, resumed)
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
    return UnpackedRun(config, net, {split: len(found) for split, found in pictures.items()}, resumed)


def _picture_size(phase: PhaseConfig, first: SolverPicture) -> tuple[int, int]:
    """Return the (height, width) of the pictures of a phase; without resizing, all are as large as the first one."""
    if phase.image_size:
        return phase.image_size
    try:
        height, width, _ = decode_picture(first.read()).shape
    except BadPicture as error:
        raise UserError(f"{first} can't be used: {error}; replace it, or remove its line") from error
    return height, width
