"""Reads and checks the input of a training run, and copies its shards to local disks."""

import dataclasses

import torch
from torch import nn

from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.checkpoint.resume import (
    check_not_finished,
    check_ranks_agree,
    check_resumed_data,
    check_resumed_means,
    find_checkpoint,
    restore_solverstate,
)
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.mean import load_mean
from stylefinetune.data.staging.stage import fetch_index, stage_folder, stage_shards
from stylefinetune.data.staging.stream import is_streamed, stream_folder
from stylefinetune.distributed.environment import was_requeued
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import check_engine
from stylefinetune.losses.class_weights import resolve_class_weights
from stylefinetune.losses.several_labels import check_several_labels
from stylefinetune.models.build import build_model
from stylefinetune.models.weights import fetch_weights
from stylefinetune.optim.param_groups import param_groups
from stylefinetune.training.plan.describe import describe_plan
from stylefinetune.training.plan.resolve import (
    resolve_batch_norm,
    resolve_dropout,
    resolve_layers,
    resolve_length,
    resolve_memory_format,
    resolve_order,
)
from stylefinetune.training.plan.warn import order_warning, warn_of_settings
from stylefinetune.training.preemption import Preemption
from stylefinetune.training.preprocessing import lost_aspect_ratio, resolve_preprocessing


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """The checked input of a run; nothing is written yet."""

    config: Config  # with data.shuffle and train.max_iter resolved
    index: ShardIndex
    train_set: PictureDataset
    test_set: PictureDataset | None  # None disables tests
    means: tuple[torch.Tensor, torch.Tensor]  # subtracted from training and from test pictures, see data.mean
    net: nn.Module  # with initial weights
    resumed: Checkpoint | None  # the checkpoint to resume from
    progress: Progress


def prepare_training(config: Config, world: World) -> TrainingSetup:
    """Read and check the input of a run; collective.

    Raises:
        UserError: something is missing, damaged or inconsistent.
    """
    check_engine(config, world.size)
    resumed = find_checkpoint(config, is_restarted=world.restarts > 0 or was_requeued())
    check_ranks_agree(resumed, world)
    config = resolve_preprocessing(config, resumed)
    config = resolve_memory_format(resolve_order(config, resumed), resumed)
    fetch_index(config.data, world)
    index = open_index(config.data)
    check_several_labels(config, index)
    classes = index.metadata.classes
    train_set, test_set = open_datasets(config, index)
    tested = test_set or train_set
    config = resolve_length(config, len(train_set.entries))
    config = resolve_class_weights(config, train_set.entries.label, len(classes))
    if resumed:
        check_resumed_data(resumed, config, classes, index.fingerprint_like(resumed.progress.index))
        check_resumed_means(resumed, config, [pictures.size for pictures in (train_set, test_set) if pictures])
        means = resumed.means
    else:
        means = load_means(config, train_set.size, tested.size)
    net, config = build_checked_model(config, len(classes), train_set.size, tested.size, resumed)
    if resumed:
        check_not_finished(resumed, config)
    initial = Progress(
        iteration=0,
        losses=[],
        tests=[],
        seed=config.train.seed,
        classes=list(classes),
        index=index.fingerprint,
        picture_size=list(tested.size),
        input_size=list(tested.input_size),
    )
    resumed = resumed or restore_solverstate(config, net, initial, means)
    if config.weights and not resumed:
        weights, arch = config.weights, config.model.arch
        world.main_first(lambda: fetch_weights(weights, arch, train_set.input_size))
    progress = resumed.progress if resumed else initial
    return TrainingSetup(config, index, train_set, test_set, means, net, resumed, progress)


def open_datasets(config: Config, index: ShardIndex) -> tuple[PictureDataset, PictureDataset | None]:
    """Return the training set and the test set; None for the latter without data.test.split.

    Raises:
        UserError: a split is empty, or its labels or shards are not as required.
    """
    folder = stage_folder(index, config.data)
    train_folder = stream_folder(index, config.run_dir) if is_streamed(config.data) else folder
    train_set, test_set = (
        PictureDataset(open_split(index, phase.split, phase.split_flag), phase, config.train.seed, copies)
        if phase.split
        else None
        for phase, copies in (
            (config.data.phase(training=True), train_folder),
            (config.data.phase(training=False), folder),
        )
    )
    assert train_set is not None
    return train_set, test_set


def load_means(
    config: Config, train_size: tuple[int, int], test_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is subtracted from training and from test pictures, whose (height, width) are given.

    Raises:
        UserError: a mean file can't be used.
    """
    train, test = (config.data.phase(training=training) for training in (True, False))
    return load_mean(config.data, train, train_size), load_mean(config.data, test, test_size)


def build_checked_model(
    config: Config, classes: int, train_size: tuple[int, int], test_size: tuple[int, int], resumed: Checkpoint | None
) -> tuple[nn.Module, Config]:
    """Build the network with initial weights for pictures of these (height, width).

    Returns:
        The network, and the config with model.batch_norm and optim.layers resolved.

    Raises:
        UserError: the network can't have this input, or a rule matches no layer.
    """
    train, test = (config.data.phase(training=training) for training in (True, False))
    net = build_model(
        config.model, classes, [train.input_size(train_size), test.input_size(test_size)], config.train.seed
    )
    config = resolve_layers(resolve_batch_norm(resolve_dropout(config), net, resumed), net)
    param_groups(net, config.optim)
    return net, config


def stage_training_shards(setup: TrainingSetup, world: World, preemption: Preemption) -> None:
    """Copy the shards of the run to each node's local disk, except those that it copies while it runs; collective."""
    data, folder = setup.config.data, stage_folder(setup.index, setup.config.data)
    sets = [setup.test_set] if is_streamed(data) else [setup.train_set, setup.test_set]
    used = {name for pictures in sets if pictures for name in pictures.entries.shard.distinct}
    if folder and used:
        stop = lambda: preemption.signal if preemption.requested() else None  # noqa: E731 -- a short argument
        stage_shards(setup.index, used, folder, world, stop, data.stage_bytes)


def plan_of(setup: TrainingSetup) -> str:
    """Return a line that describes the plan of a run."""
    counts = [len(pictures.entries) if pictures else 0 for pictures in (setup.train_set, setup.test_set)]
    classes = len(setup.index.metadata.classes)
    return describe_plan(setup.config, counts[0], classes, counts[1], setup.progress.iteration)


def warnings_of(setup: TrainingSetup) -> list[str]:
    """Return a line for each setting and property of the shards that makes a run learn little or less than it could."""
    found = (
        *warn_of_settings(setup.config, len(setup.train_set.entries)),
        order_warning(setup.train_set, setup.index.metadata.classes),
        lost_aspect_ratio(setup.index, setup.train_set.phase),
    )
    return [line for line in found if line]
