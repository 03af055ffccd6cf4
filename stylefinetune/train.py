"""Fine-tunes a network: `torchrun --nproc_per_node N -m stylefinetune.train [--config FILE] [--dotted.key=value ...]`.

With nothing more, it runs Caffe's Flickr Style recipe.
"""

import dataclasses
import sys
import time
from pathlib import Path

from stylefinetune.caffe.solver import find_solver_lists, pack_solver_lists, read_solver
from stylefinetune.checkpoint.async_saver import AsyncSaver, is_finite
from stylefinetune.checkpoint.atomic_folder import recover_folders
from stylefinetune.checkpoint.checkpoint import Progress, checkpoint_path, newest_checkpoint
from stylefinetune.checkpoint.resume import (
    changed_settings,
    set_later_aside,
)
from stylefinetune.config.cli import SHOW_DEEPSPEED, parse_config
from stylefinetune.config.schema import Config
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import test_slices, train_slices
from stylefinetune.data.staging import stage_folder, stage_shards
from stylefinetune.data.transforms import Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import build_engine, print_deepspeed_config
from stylefinetune.engines.engine import Engine
from stylefinetune.errors import NotFiniteError, Stopped, run_command
from stylefinetune.models.weights import load_weights
from stylefinetune.optim.caffe_sgd import lr_mults
from stylefinetune.optim.lr_schedule import learning_rate
from stylefinetune.tracking.metrics import LossWindow
from stylefinetune.tracking.tracker import Tracker
from stylefinetune.training.evaluation import test_model
from stylefinetune.training.exit_record import ExitRecord
from stylefinetune.training.preemption import Preemption
from stylefinetune.training.setup import prepare_training


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What stays the same from the first iteration to the last.

    Attributes:
        config: its settings.
        world: its ranks.
        engine: moves the weights.
        tracker: tells the progress.
        train: pictures to train on.
        test: pictures to test on; None never tests.
        corrupt: those of each that can't be decoded, training first.
        checkpoints: keeps what was done.
        preemption: knows whether to leave.
        lr_mults: the layers' distinct multipliers.
    """

    config: Config
    world: World
    engine: Engine
    tracker: Tracker
    train: PictureDataset
    test: PictureDataset | None
    corrupt: tuple[CorruptPictures, CorruptPictures]
    checkpoints: AsyncSaver
    preemption: Preemption
    lr_mults: list[float]


def main(arguments: list[str]) -> None:
    """Runs the command line `arguments`, and leaves RUN/exit.json."""
    config = parse_config(arguments, read_solver)
    world = World.join(deterministic=config.train.deterministic, stall_seconds=config.train.stall_seconds)
    if SHOW_DEEPSPEED in arguments:
        print_deepspeed_config(config, world)
        world.shutdown()
        return
    run_dir = Path(config.run_dir)
    exit_record = ExitRecord(run_dir, world, lambda: newest_checkpoint(run_dir))
    world.main_first(exit_record.refuse_hopeless_restart)
    with Preemption(world, exit_record.exit_now) as preemption, exit_record:
        run(config, world, exit_record, preemption)
        world.shutdown()


def run(config: Config, world: World, exit_record: ExitRecord, preemption: Preemption) -> None:
    """Trains, from the start or from where the run was left."""
    run_dir = Path(config.run_dir)
    if config.solver and not config.data.shards:
        lists = find_solver_lists(config)
        world.main_first(lambda: pack_solver_lists(lists))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(lists.shards)))
    world.main_first(lambda: recover_folders(run_dir / "checkpoints"))
    start = prepare_training(config, world)
    (train_set, test_set), means, resumed, progress = start.sets, start.means, start.resumed, start.progress
    folder = stage_folder(start.index, config.data)
    if folder:
        shards = {name for pictures in start.sets if pictures for name in pictures.entries.shard}
        stage_shards(start.index, shards, folder, world, lambda: preemption.signal if preemption.requested() else None)

    tracker = Tracker(config, world, progress.iteration, [round(told["iteration"]) for told in progress.tests])
    failed = True
    try:
        if resumed:
            for line in resumed.passed_over:
                tracker.log(f"{line}; going on from the one before")
            tracker.log(f"Restoring previous solver status from {resumed.path}")
            for line in changed_settings(resumed.config, config):
                tracker.log(line)
        elif config.weights:
            tracker.log(f"Finetuning from {config.weights}")
            load_weights(start.net, config.weights, tracker.log)
        scales = [config.data.phase(training=training).scale for training in (True, False)]
        transforms = Transform(means[0], scales[0], world.device), Transform(means[1], scales[1], world.device)
        engine = build_engine(config, start.net, transforms, world, train_set.input_size)
        if resumed:
            engine.load(resumed.engine_state(engine.state()))
            world.main_first(lambda: set_later_aside(resumed, run_dir))
            exit_record.note_resumed(resumed.path)
        tracker.log(f"Solving {config.model.name}")
        tracker.log(f"Learning Rate Policy: {config.optim.lr_policy}")
        corrupt = (
            CorruptPictures(train_set, config.data.max_corrupt, progress.corrupt),
            CorruptPictures(start.tested, config.data.max_corrupt, []),
        )
        checkpoints = AsyncSaver(config, world, means, progress, exit_record.note_saved)
        mults = lr_mults(start.net, config.optim.layers)
        solve(
            TrainingRun(config, world, engine, tracker, train_set, test_set, corrupt, checkpoints, preemption, mults),
            progress,
        )
        failed = False
    finally:
        tracker.close(failed=failed)


def solve(run: TrainingRun, progress: Progress) -> None:
    """Trains from `progress` to the last iteration, testing, telling and saving on the way, unless asked to stop."""
    config, world, tracker, start = run.config, run.world, run.tracker, progress.iteration
    window = LossWindow(config.train.average_loss, progress.losses)
    slices = train_slices(config, start, world.rank, world.size)
    world.drain_collectives()
    batches = load_batches(run.train, slices, config.data.workers, world.device)
    waited = 0.0
    tracker.start(start)
    for iteration in range(start, config.train.max_iter):
        if _is_due(iteration, config.train.test_interval) and (iteration > 0 or config.train.test_initialization):
            progress = run_test(run, progress, window)
        if run.preemption.requested():
            break
        world.set_activity("reading data", iteration)
        began = time.monotonic()
        micro_batches = [next(batches) for _ in range(config.train.iter_size)]
        waited += time.monotonic() - began
        world.set_activity("in the step and its all-reduce", iteration)
        lr = learning_rate(config.optim, iteration, config.train.max_iter)
        window.add(run.engine.train_step(iteration, micro_batches, lr), iteration)
        run.corrupt[0].add_all(micro_batches)
        if _is_due(iteration, config.train.display):
            rates = {"lr": lr, **{f"lr_x{mult:g}": lr * mult for mult in run.lr_mults}}
            tracker.log_train(iteration, gather(run, window), rates | run.engine.scalars(), waited)
            waited = 0.0
        tracker.advance(iteration)
        run.checkpoints.check()
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        if _is_due(progress.iteration, config.checkpoint.snapshot) and progress.iteration < config.train.max_iter:
            save(run, progress, window)
    if progress.iteration == config.train.max_iter and not run.preemption.signal:
        progress = run_test(run, progress, window)
    save(run, progress, window)
    world.set_activity("waiting for the checkpoint", progress.iteration)
    run.checkpoints.wait()
    if run.preemption.signal:
        name, iteration = run.preemption.signal.name, progress.iteration
        raise Stopped(
            run.preemption.signal, f"stopped by {name} after {iteration} iterations; the same command goes on"
        )
    tracker.log("Optimization Done.")


def run_test(run: TrainingRun, progress: Progress, window: LossWindow) -> Progress:
    """Tests the weights as they are, unless there is nothing to test on or it has been done."""
    iteration, world = progress.iteration, run.world
    if run.test is None or any(told["iteration"] == iteration for told in progress.tests):
        return progress
    gather(run, window)
    run.tracker.log_test_start(iteration)
    world.set_activity("testing", iteration)
    world.drain_collectives()
    slices = test_slices(run.config, run.test.order.rows, iteration, world.rank, world.size)
    batches = load_batches(run.test, slices, run.config.data.workers, world.device)

    def stop() -> bool:
        world.set_activity("testing", iteration)
        return run.preemption.requested()

    result = test_model(run.engine.forward, batches, run.corrupt[1], world, stop)
    if result is None:
        return progress
    for line in run.corrupt[1].gather(world):
        run.tracker.log(line)
    run.tracker.log_test(iteration, result)
    told = {"iteration": iteration, "accuracy": result.accuracy, "loss": result.loss}
    return dataclasses.replace(progress, tests=[*progress.tests, told])


def save(run: TrainingRun, progress: Progress, window: LossWindow) -> None:
    """Saves what is new, unless the weights have gone astray."""
    if run.checkpoints.has(progress):
        return
    run.world.set_activity("saving a checkpoint", progress.iteration)
    losses = gather(run, window)
    state = run.engine.state()
    path = checkpoint_path(Path(run.config.run_dir), progress.iteration)
    if not is_finite(state, run.world):
        if run.config.train.stop_on_nonfinite:
            raise NotFiniteError(f"the weights aren't finite after {progress.iteration} iterations; {_remedy(run)}")
        run.tracker.log(f"{path} is not written, since the weights aren't finite")
        return
    run.tracker.log(f"Snapshotting to {path}")
    progress = dataclasses.replace(progress, losses=losses, corrupt=run.corrupt[0].rows)
    run.tracker.log_checkpoint(progress.iteration, run.checkpoints.save(progress, state))


def gather(run: TrainingRun, window: LossWindow) -> list[float]:
    """Waits for the device and all ranks, and returns the last losses; names what went wrong since the last time."""
    losses = window.gather(run.world)
    first = window.first_not_finite(run.world)
    if first is not None and run.config.train.stop_on_nonfinite:
        raise NotFiniteError(f"the loss isn't finite at iteration {first}; {_remedy(run)}")
    for line in run.corrupt[0].gather(run.world):
        run.tracker.log(line)
    return losses


def _remedy(run: TrainingRun) -> str:
    last = run.checkpoints.last()
    good = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"{good}; lower optim.base_lr, or go on all the same with --train.stop_on_nonfinite=false"


def _is_due(iteration: int, interval: int) -> bool:
    return interval > 0 and iteration % interval == 0


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
