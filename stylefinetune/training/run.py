"""Builds the objects of a training run from its checked input: the weights, the engine, the checkpoints."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from shards.format.outcomes import OUTCOMES_FILE, count_outcomes
from stylefinetune.checkpoint.async_saver import AsyncSaver
from stylefinetune.checkpoint.folders import best_checkpoint, iteration_of, list_checkpoints, read_tests
from stylefinetune.checkpoint.resume import changed_settings, rename_skipped
from stylefinetune.checkpoint.size import checkpoint_bytes
from stylefinetune.config.schema import Config
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.data.staging.stage import open_stream
from stylefinetune.data.staging.stream import ShardStream
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import build_engine
from stylefinetune.engines.engine import Engine
from stylefinetune.losses.batch_targets import BatchTargets
from stylefinetune.models.batch_norm import describe_batch_norm, set_batch_norm
from stylefinetune.models.flops import peak_flops, training_flops
from stylefinetune.models.weights import load_weights
from stylefinetune.optim.param_groups import lr_mults
from stylefinetune.tracking.metrics import LossWindow
from stylefinetune.tracking.run_facts import RunFacts, SavedCheckpoint
from stylefinetune.tracking.tracker import Tracker
from stylefinetune.training.exit_handler import ExitHandler
from stylefinetune.training.preemption import Preemption
from stylefinetune.training.preprocessing import describe_input
from stylefinetune.training.setup import TrainingSetup, plan_of, warnings_of
from stylefinetune.training.test_details.details import TestDetails


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
