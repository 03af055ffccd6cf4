"""Fine-tunes a network: `torchrun --nproc_per_node N -m stylefinetune.train [--config FILE] [--dotted.key=value ...]`.

Without arguments it runs Caffe's Flickr Style recipe, but on shuffled pictures.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from torch.profiler import record_function

from shards.format import counted
from stylefinetune.caffe.solver import read_solver
from stylefinetune.checkpoint.async_saver import is_finite
from stylefinetune.checkpoint.atomic_folder import recover_folders
from stylefinetune.checkpoint.checkpoint import Progress
from stylefinetune.checkpoint.early_stopping import describe_early_stop, is_new_best, stops_early
from stylefinetune.checkpoint.folders import checkpoint_path, newest_checkpoint
from stylefinetune.config.cli import PRINT_DEEPSPEED, parse_config
from stylefinetune.config.help import show_help
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.data.sampler import sampler_for_testing, sampler_for_training
from stylefinetune.distributed.heartbeat import FINISHING
from stylefinetune.distributed.world import World
from stylefinetune.engines.allocator import keep_freed_memory
from stylefinetune.engines.build import print_deepspeed_config
from stylefinetune.errors import NotFiniteError, Stopped, run_command
from stylefinetune.losses.batch_targets import add_pairs
from stylefinetune.optim.lr_schedule import learning_rate
from stylefinetune.tracking.metrics import TestResult
from stylefinetune.tracking.profiler import StepProfiler
from stylefinetune.tracking.tracker import Tracker
from stylefinetune.training.evaluation import evaluate_batches
from stylefinetune.training.exit_handler import ExitHandler
from stylefinetune.training.loaders import Loader, start_loaders
from stylefinetune.training.preemption import Preemption
from stylefinetune.training.resident_loaders import load_resident
from stylefinetune.training.run import TrainingRun, build_run, facts_of
from stylefinetune.training.run_lock import lock_run
from stylefinetune.training.setup import prepare_training, stage_training_shards
from stylefinetune.training.solver_run import pack_solver_pictures
from stylefinetune.training.test_details.result import summarize


def main(arguments: list[str]) -> None:
    """Run the command line `arguments`; RUN/exit.json records how the run ends."""
    if show_help("train", arguments):
        return
    config = parse_config(arguments, read_solver)
    world = World.join(deterministic=config.train.deterministic, stall_seconds=config.train.stall_seconds)
    if world.device.type == "cpu":
        keep_freed_memory()
    if PRINT_DEEPSPEED in arguments:
        print_deepspeed_config(config, world)
        world.shutdown()
        return
    run_dir = Path(config.run_dir)
    exit_handler = ExitHandler(run_dir, world, lambda: newest_checkpoint(run_dir))
    with lock_run(run_dir, world, exit_handler.exit_for_successor):
        world.main_first(exit_handler.check_restart)
        with Preemption(world, exit_handler.exit_now) as preemption, exit_handler:
            run_training(config, world, preemption, exit_handler)
            world.shutdown()


def run_training(config: Config, world: World, preemption: Preemption, exit_handler: ExitHandler) -> None:
    """Set up and train, from the beginning or from the checkpoint of an earlier start."""
    config = pack_solver_pictures(config, world)
    world.main_first(lambda: recover_folders(Path(config.run_dir) / "checkpoints"))
    setup = prepare_training(config, world)
    stage_training_shards(setup, world, preemption)
    tested = [round(test["iteration"]) for test in setup.progress.tests]
    with Tracker(setup.config, facts_of(setup, world), world, setup.progress.iteration, tested) as tracker:
        train(build_run(setup, world, tracker, preemption, exit_handler), setup.progress)


def train(run: TrainingRun, progress: Progress) -> None:
    """Train from `progress` to the last iteration, or until the tests do not improve; test, log and save in between.

    Raises:
        Stopped: a signal asked the run to stop; a checkpoint is saved.
    """
    config, world, tracker, start = run.config, run.world, run.tracker, progress.iteration
    loaders = load_resident(run, start) or start_loaders(config, run.train_set, run.test_set, world, run.stream)
    sampler = sampler_for_training(config, start, world.rank, world.size)
    batches = run.targets.complete(loaders.train.load(sampler), sampler)
    profiler = StepProfiler(config.profiled, Path(config.run_dir), world, tracker.log)
    data_seconds = 0.0
    tracker.start(start)
    for iteration in range(start, config.train.max_iter):
        if _is_due(iteration, config.train.test_interval) and (iteration > 0 or config.train.test_initialization):
            progress = run_test(run, loaders.test, progress)
            if is_new_best(progress.tests, iteration, config):
                save(run, progress)
        if run.preemption.requested() or stops_early(progress.tests, config):
            break

        profiler.begin(iteration)
        micro_batches, seconds = read_micro_batches(run, batches, iteration)
        data_seconds += seconds

        world.set_activity("in the step and its all-reduce", iteration)
        lr = learning_rate(config.optim, iteration, config.train.max_iter)
        is_displayed = _is_due(iteration, config.train.display)
        run.engine.phases.start(measure=is_displayed)
        run.engine.norms.start(measure=is_displayed and config.tracking.layer_norms)
        run.losses.add(run.engine.train_step(iteration, micro_batches, lr), iteration)
        run.corrupt_train.add_batches(micro_batches)
        del micro_batches  # the loader uses their memory again

        if is_displayed:
            log_iteration(run, iteration, lr, data_seconds)
            data_seconds = 0.0
        tracker.advance(iteration)

        run.checkpoints.raise_failure()
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        if _is_due(progress.iteration, config.checkpoint.snapshot) and progress.iteration < config.train.max_iter:
            save(run, progress)

    profiler.finish()
    finish(run, loaders.test, progress)


def finish(run: TrainingRun, loader: Loader | None, progress: Progress) -> None:
    """Test and save the weights that the loop leaves, and log how the run ends; collective.

    Raises:
        Stopped: a signal asked the run to stop; the checkpoint is saved.
    """
    config, world, tracker = run.config, run.world, run.tracker
    if progress.iteration == config.train.max_iter and not run.preemption.signal:
        progress = run_test(run, loader, progress)
    save(run, progress)
    world.set_activity("waiting for the checkpoint", progress.iteration)
    run.checkpoints.wait()
    if run.preemption.signal:
        line = f"stopped by {run.preemption.signal.name} after {counted(progress.iteration, 'iteration')}"
        raise Stopped(run.preemption.signal, f"{line}; run the same command again to continue")
    world.set_activity(FINISHING, progress.iteration)
    if progress.iteration < config.train.max_iter:
        show_result(run, progress.iteration)
        tracker.commit()
        tracker.log(describe_early_stop(progress.tests, config))
    tracker.log("Optimization Done.")
    name = shlex.quote(config.run_dir)
    tracker.log(f"To see which classes it gets wrong, run: stylefinetune evaluate {name}")


def read_micro_batches(run: TrainingRun, batches: Iterator[Batch], iteration: int) -> tuple[list[Batch], float]:
    """Return the next micro-batches, and the seconds that passed until they were there."""
    run.world.set_activity("reading data", iteration)
    began = time.monotonic()
    with record_function("data"):
        micro_batches = [next(batches) for _ in range(run.config.train.iter_size)]
    return micro_batches, time.monotonic() - began


def log_iteration(run: TrainingRun, iteration: int, lr: float, data_seconds: float) -> None:
    """Log an iteration that was measured, and how long the loop waited for pictures since the last one; collective."""
    losses, phases = gather_losses(run), run.engine.phases.milliseconds()
    rates = {"lr": lr, **{f"lr_x{mult:g}": lr * mult for mult in run.lr_mults}}
    scalars = rates | run.engine.scalars() | run.engine.norms.values()
    run.tracker.log_train(iteration, losses, scalars, data_seconds, phases)


def run_test(run: TrainingRun, loader: Loader | None, progress: Progress) -> Progress:
    """Test the current weights, unless there is no test set or this iteration is tested already; collective."""
    iteration = progress.iteration
    is_tested = any(result["iteration"] == iteration for result in progress.tests)
    if run.test_set is None or loader is None or is_tested:
        return progress
    gather_losses(run)
    run.tracker.log_test_start(iteration)
    results = evaluate_test_set(run, run.test_set, loader, iteration)
    if results is None:
        return progress
    run.tracker.add_details(run.details.values())
    if iteration == run.config.train.max_iter:
        show_result(run, iteration)
    for line in run.corrupt_test.gather(run.world):
        run.tracker.log(line)
    result, *averaged = results
    entry = {"iteration": iteration, **_metrics_of(result)}
    for of_average in averaged:
        entry |= {f"ema_{name}": value for name, value in _metrics_of(of_average).items()}
    further = {name: value for name, value in entry.items() if name not in {"iteration", "accuracy", "loss"}}
    run.tracker.log_test(iteration, result, further)
    return dataclasses.replace(progress, tests=[*progress.tests, entry])


def evaluate_test_set(
    run: TrainingRun, test_set: PictureDataset, loader: Loader, iteration: int
) -> list[TestResult] | None:
    """Evaluate the weights on the test set, and with train.ema_decay their average; collective.

    Returns:
        A result for each; None if a signal asked the run to stop.
    """
    config, world = run.config, run.world
    world.set_activity("testing", iteration)
    run.details.start(iteration)
    sampler = sampler_for_testing(config, test_set.order.rows, iteration, world.rank, world.size)
    batches = add_pairs(loader.load(sampler), test_set)
    forwards = [run.details.watch(run.engine.forward)]
    if config.train.ema_decay:
        forwards.append(run.engine.forward_average)
    with_map = test_set.entries.labels is not None or config.checkpoint.best_metric == "map"

    def should_stop() -> bool:
        world.set_activity("testing", iteration)
        return run.preemption.requested()

    return evaluate_batches(
        forwards, batches, run.corrupt_test, world, should_stop, config.train.loss, with_map=with_map
    )


def show_result(run: TrainingRun, iteration: int) -> None:
    """Show the predictions of the last test in the dashboards; collective."""
    predictions, pictures = run.details.predictions(), run.test_set
    if predictions and pictures:
        run.tracker.log_result(iteration, lambda: summarize(predictions, pictures))


def save(run: TrainingRun, progress: Progress) -> None:
    """Save a checkpoint, unless there is nothing new or the weights are not finite; collective."""
    if run.checkpoints.is_saved(progress):
        return
    run.world.set_activity("saving a checkpoint", progress.iteration)
    losses = gather_losses(run)
    state = run.engine.state()
    path = checkpoint_path(Path(run.config.run_dir), progress.iteration)
    if not is_finite(state, run.world):
        if run.config.train.stop_on_nonfinite:
            message = f"the weights aren't finite after {counted(progress.iteration, 'iteration')}; {_remedy(run)}"
            raise NotFiniteError(message, progress.iteration)
        run.tracker.log(f"{path} is not written, since the weights aren't finite")
        return
    run.tracker.log(f"Snapshotting to {path}")
    run.tracker.sync()
    progress = dataclasses.replace(progress, losses=losses, corrupt=run.corrupt_train.rows)
    run.tracker.log_checkpoint(progress.iteration, run.checkpoints.save(progress, state))


def gather_losses(run: TrainingRun) -> list[float]:
    """Return the last losses, after waiting for the device and all ranks; log the corrupt pictures since the last call.

    Raises:
        NotFiniteError: a loss since the last call is not finite, and train.stop_on_nonfinite is set.
    """
    losses = run.losses.gather(run.world)
    first = run.losses.first_not_finite(run.world)
    if first is not None and run.config.train.stop_on_nonfinite:
        raise NotFiniteError(f"the loss isn't finite at iteration {first}; {_remedy(run)}", first)
    for line in run.corrupt_train.gather(run.world):
        run.tracker.log(line)
    return losses


def _remedy(run: TrainingRun) -> str:
    newest = run.checkpoints.newest()
    checkpoint = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
    return f"{checkpoint}; lower optim.base_lr, or continue anyway with --train.stop_on_nonfinite=false"


def _metrics_of(result: TestResult) -> dict[str, float]:
    metrics = {"accuracy": result.accuracy, "loss": result.loss}
    return metrics if result.map is None else metrics | {"map": result.map}


def _is_due(iteration: int, interval: int) -> bool:
    return interval > 0 and iteration % interval == 0


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
