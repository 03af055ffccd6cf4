"""Sets up a training run: reads and checks its input, copies shards to local disks, builds the engine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from shards.format.index import ShardIndex
from shards.format.outcomes import OUTCOMES_FILE, count_outcomes
from stylefinetune.checkpoint.async_saver import AsyncSaver
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.checkpoint.folders import best_checkpoint, iteration_of, list_checkpoints, read_tests
from stylefinetune.checkpoint.resume import (
    changed_settings,
    check_not_finished,
    check_ranks_agree,
    check_resumed_data,
    check_resumed_means,
    find_checkpoint,
    rename_skipped,
    restore_solverstate,
)
from stylefinetune.checkpoint.size import checkpoint_bytes
from stylefinetune.config.schema import Config
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.mean import load_mean
from stylefinetune.data.staging.stage import fetch_index, open_stream, stage_folder, stage_shards
from stylefinetune.data.staging.stream import ShardStream, is_streamed, stream_folder
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.environment import was_requeued
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import build_engine, check_engine
from stylefinetune.engines.engine import Engine
from stylefinetune.losses.batch_targets import BatchTargets
from stylefinetune.losses.class_weights import resolve_class_weights
from stylefinetune.losses.several_labels import check_several_labels
from stylefinetune.models.batch_norm import describe_batch_norm, set_batch_norm
from stylefinetune.models.build import build_model
from stylefinetune.models.flops import peak_flops, training_flops
from stylefinetune.models.weights import fetch_weights, load_weights
from stylefinetune.optim.param_groups import lr_mults, param_groups
from stylefinetune.tracking.metrics import LossWindow
from stylefinetune.tracking.run_facts import RunFacts, SavedCheckpoint
from stylefinetune.tracking.tracker import Tracker
from stylefinetune.training.exit_handler import ExitHandler
from stylefinetune.training.plan import (
    describe_plan,
    order_warning,
    resolve_batch_norm,
    resolve_dropout,
    resolve_layers,
    resolve_length,
    resolve_memory_format,
    resolve_order,
)
from stylefinetune.training.preemption import Preemption
from stylefinetune.training.preprocessing import describe_input, lost_aspect_ratio, resolve_preprocessing
from stylefinetune.training.test_details.details import TestDetails


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


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """The objects that the training loop uses."""

    config: Config
    world: World
    engine: Engine
    tracker: Tracker
    train_set: PictureDataset
    test_set: PictureDataset | None  # None disables tests
    targets: BatchTargets
    corrupt_train: CorruptPictures
    corrupt_test: CorruptPictures
    losses: LossWindow
    details: TestDetails
    checkpoints: AsyncSaver
    preemption: Preemption
    stream: ShardStream | None  # copies the shards while they are read; None if they are there
    lr_mults: list[float]  # the distinct learning rate multipliers of the layers


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


def facts_of(setup: TrainingSetup, world: World) -> RunFacts:
    """Return what the dashboards show of the run besides its settings."""
    parameters = [(p.numel(), p.requires_grad) for p in setup.net.parameters()]
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
    peak = peak_flops(device, setup.config.train.precision)
    root = setup.train_set.entries.root
    return RunFacts(
        train_pictures=len(setup.train_set.entries),
        test_pictures=len(setup.test_set.entries) if setup.test_set else 0,
        classes=setup.index.metadata.classes,
        parameters=sum(count for count, _ in parameters),
        trained_parameters=sum(count for count, is_trained in parameters if is_trained),
        ranks=world.size,
        device=device,
        index=setup.index.fingerprint,
        outcomes=count_outcomes(root / OUTCOMES_FILE) if world.is_main else {},
        flops=training_flops(setup.net, setup.train_set.input_size) if world.is_main else None,
        peak_flops=peak * world.size if peak else None,
        checkpoint_bytes=checkpoint_bytes(setup.net, setup.config),
        index_file=setup.index.file.path if world.is_main else None,
    )


def saved_checkpoints(config: Config) -> list[SavedCheckpoint]:
    """Return the checkpoints of a run, oldest first."""
    found = list_checkpoints(Path(config.run_dir))
    tests = (read_tests(found[0]) if found else None) or []
    best = best_checkpoint(found, tests, config.checkpoint.best_metric)
    by_iteration = {test["iteration"]: test for test in tests}
    return [
        SavedCheckpoint(path, iteration_of(path), by_iteration.get(iteration_of(path), {}), is_best=path == best)
        for path in reversed(found)
    ]


def _on_saved(config: Config, tracker: Tracker, exit_handler: ExitHandler) -> Callable[[Path], None]:
    """Return what to do after a checkpoint is saved, before old ones are removed."""

    def note_saved(checkpoint: Path) -> None:
        exit_handler.note_saved(checkpoint)
        tracker.note_checkpoints(saved_checkpoints(config))

    return note_saved


def warnings_of(setup: TrainingSetup) -> list[str]:
    """Return a line for each property of the shards that makes a run learn little or less than it could."""
    found = (
        order_warning(setup.train_set, setup.index.metadata.classes),
        lost_aspect_ratio(setup.index, setup.train_set.phase),
    )
    return [line for line in found if line]


def log_plan(setup: TrainingSetup, tracker: Tracker) -> None:
    """Log the network, the policy, the input and the length of a run, and warnings about its shards."""
    config = setup.config
    tracker.log(f"Solving {config.model.title}")
    tracker.log(f"Learning Rate Policy: {config.optim.lr_policy}")
    tracker.log(f"Input: {describe_input(config, config.data.phase(training=True))}")
    tracker.log(f"Plan: {plan_of(setup)}")
    if setup.progress.iteration >= config.train.max_iter:
        tracker.log("All iterations are done; to continue this run, raise train.max_iter")
    for warning in warnings_of(setup):
        tracker.warn(warning)


def build_run(
    setup: TrainingSetup, world: World, tracker: Tracker, preemption: Preemption, exit_handler: ExitHandler
) -> TrainingRun:
    """Load the starting weights or the checkpoint, and build the engine; collective."""
    config, resumed, progress = setup.config, setup.resumed, setup.progress
    if resumed:
        for line in resumed.skipped:
            tracker.log(f"{line}; resuming from the previous one")
        tracker.log(f"Restoring previous solver status from {resumed.path}")
        for line in changed_settings(resumed.config, config):
            tracker.log(line)
    elif config.weights:
        tracker.log(f"Finetuning from {config.weights}")
        load_weights(setup.net, config.weights, tracker.log, config.model.arch, setup.train_set.input_size)
    net = setup.net
    if config.model.batch_norm:
        net = set_batch_norm(net, config.model.batch_norm, config.data.batch_size, world.size, world.device)
        tracker.log(f"Batch normalization: {describe_batch_norm(config.model.batch_norm, world.size)}")
    transforms = (
        Transform.for_phase(setup.means[0], config.data.phase(training=True), world.device),
        Transform.for_phase(setup.means[1], config.data.phase(training=False), world.device),
    )
    engine = build_engine(config, net, transforms, world, setup.train_set.input_size)
    if resumed:
        engine.load(resumed.engine_state(engine.state(), config.optim.optimizer))
        world.main_first(lambda: rename_skipped(resumed, Path(config.run_dir)))
        exit_handler.note_resumed(resumed.path)
        tracker.note_checkpoints(saved_checkpoints(config))
    log_plan(setup, tracker)
    return TrainingRun(
        config=config,
        world=world,
        engine=engine,
        tracker=tracker,
        train_set=setup.train_set,
        test_set=setup.test_set,
        targets=BatchTargets(config, setup.train_set),
        corrupt_train=CorruptPictures(setup.train_set, config.data.max_corrupt, progress.corrupt),
        corrupt_test=CorruptPictures(setup.test_set or setup.train_set, config.data.max_corrupt, []),
        details=TestDetails(config, setup.test_set, list(setup.index.metadata.classes), world),
        losses=LossWindow(config.train.average_loss, progress.losses),
        checkpoints=AsyncSaver(config, world, setup.means, progress, _on_saved(config, tracker, exit_handler)),
        preemption=preemption,
        stream=open_stream(config, setup.index, setup.train_set, setup.test_set, world),
        lr_mults=lr_mults(net, config.optim),
    )
