"""Fine-tunes a network: `torchrun --nproc_per_node N -m stylefinetune.train [--config FILE] [--dotted.key=value ...]`.

With nothing more, it runs Caffe's Flickr Style recipe.
"""

import dataclasses
import sys
import time
from pathlib import Path

import torch
from torch import nn

from shards.index import ShardIndex
from stylefinetune import models, resume, staging
from stylefinetune.checkpoint import Checkpoint, Progress, newest, path_of
from stylefinetune.config import Config
from stylefinetune.config_io import SHOW_DEEPSPEED, parse
from stylefinetune.corrupt import CorruptPictures
from stylefinetune.data import PictureSet, load_mean, open_index, open_split, read_batches
from stylefinetune.ending import Ending
from stylefinetune.engines import choice
from stylefinetune.engines.engine import Engine
from stylefinetune.errors import NotFiniteError, Stopped, run_command
from stylefinetune.evaluate import test
from stylefinetune.metrics import LossWindow
from stylefinetune.optimizer import lr_mults
from stylefinetune.order import test_slices, train_slices
from stylefinetune.saving import Checkpoints, is_finite
from stylefinetune.schedule import learning_rate
from stylefinetune.sealed import recover
from stylefinetune.solver import find_lists, pack, read_solver
from stylefinetune.stopping import Stopping
from stylefinetune.tracking import Tracker
from stylefinetune.transforms import Transform
from stylefinetune.weights import load_weights
from stylefinetune.world import World


@dataclasses.dataclass(frozen=True)
class Run:
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
        stopping: knows whether to leave.
        lr_mults: the layers' distinct multipliers.
    """

    config: Config
    world: World
    engine: Engine
    tracker: Tracker
    train: PictureSet
    test: PictureSet | None
    corrupt: tuple[CorruptPictures, CorruptPictures]
    checkpoints: Checkpoints
    stopping: Stopping
    lr_mults: list[float]


def main(arguments: list[str]) -> None:
    """Runs the command line `arguments`, and leaves RUN/exit.json."""
    config = parse(arguments, read_solver)
    world = World.join(deterministic=config.train.deterministic, stall_seconds=config.train.stall_seconds)
    if SHOW_DEEPSPEED in arguments:
        choice.show(config, world)
        world.leave()
        return
    run_dir = Path(config.run_dir)
    ending = Ending(run_dir, world, lambda: newest(run_dir))
    world.lead_first(ending.look_back)
    with Stopping(world, ending.leave_at_once) as stopping, ending:
        run(config, world, ending, stopping)
        world.leave()


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts with: all that a user can get wrong has been looked at, and nothing has been written.

    Attributes:
        config: its settings; the shards of a solver's lists filled in.
        index: of the shards.
        sets: pictures to train on and to test on; None never tests.
        means: what is subtracted from each, see data.load_mean.
        net: with fresh weights.
        resumed: the checkpoint that it goes on from, if any.
        progress: where it stands.
    """

    config: Config
    index: ShardIndex
    sets: tuple[PictureSet, PictureSet | None]
    means: tuple[torch.Tensor, torch.Tensor]
    net: nn.Module
    resumed: Checkpoint | None
    progress: Progress

    @property
    def tested(self) -> PictureSet:
        """Pictures that a checkpoint says how to test on."""
        return self.sets[1] or self.sets[0]


def prepare(config: Config, world: World) -> Start:
    """Reads what the run starts with; collective.

    Raises:
        UserError: something is missing, damaged, or doesn't go together.
    """
    choice.check(config)
    index = open_index(config.data)
    classes = index.metadata.classes
    phases = [config.data.phase(training=training) for training in (True, False)]
    folder = staging.folder_of(index, config.data)
    train_set, test_set = (
        PictureSet(open_split(index, phase.split), phase, config.train.seed, folder) if phase.split else None
        for phase in phases
    )
    assert train_set is not None
    tested = test_set or train_set
    resumed = resume.find(config)
    resume.agree(resumed, world)
    if resumed:
        resume.check_data(resumed, config, classes, index.fingerprint)
        means = resumed.means
    else:
        means = (
            load_mean(config.data, phases[0], train_set.size),
            load_mean(config.data, phases[1], tested.size),
        )
    input_sizes = [train_set.input_size, tested.input_size]
    net = models.build(config.model, len(classes), input_sizes, config.train.seed)
    fresh = Progress(
        iteration=0,
        losses=[],
        tests=[],
        seed=config.train.seed,
        classes=list(classes),
        index=index.fingerprint,
        picture_size=list(tested.size),
        input_size=list(tested.input_size),
    )
    resumed = resumed or resume.restore_caffe(config, net, fresh, means)
    return Start(config, index, (train_set, test_set), means, net, resumed, resumed.progress if resumed else fresh)


def run(config: Config, world: World, ending: Ending, stopping: Stopping) -> None:
    """Trains, from the start or from where the run was left."""
    run_dir = Path(config.run_dir)
    if config.solver and not config.data.shards:
        lists = find_lists(config)
        world.lead_first(lambda: pack(lists))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(lists.shards)))
    world.lead_first(lambda: recover(run_dir / "checkpoints"))
    start = prepare(config, world)
    (train_set, test_set), means, resumed, progress = start.sets, start.means, start.resumed, start.progress
    folder = staging.folder_of(start.index, config.data)
    if folder:
        shards = {name for pictures in start.sets if pictures for name in pictures.entries.shard}
        staging.stage(start.index, shards, folder, world, lambda: stopping.by if stopping.asked() else None)

    tracker = Tracker(config, world, progress.iteration, [round(told["iteration"]) for told in progress.tests])
    failed = True
    try:
        if resumed:
            for line in resumed.passed_over:
                tracker.say(f"{line}; going on from the one before")
            tracker.say(f"Restoring previous solver status from {resumed.path}")
            for line in resume.changes(resumed.config, config):
                tracker.say(line)
        elif config.weights:
            tracker.say(f"Finetuning from {config.weights}")
            load_weights(start.net, config.weights, tracker.say)
        scales = [config.data.phase(training=training).scale for training in (True, False)]
        transforms = Transform(means[0], scales[0], world.device), Transform(means[1], scales[1], world.device)
        engine = choice.build(config, start.net, transforms, world, train_set.input_size)
        if resumed:
            engine.load(resumed.engine_state(engine.state()))
            world.lead_first(lambda: resume.set_aside(resumed, run_dir))
            ending.resumed(resumed.path)
        tracker.say(f"Solving {config.model.name}")
        tracker.say(f"Learning Rate Policy: {config.optim.lr_policy}")
        corrupt = (
            CorruptPictures(train_set, config.data.max_corrupt, progress.corrupt),
            CorruptPictures(start.tested, config.data.max_corrupt, []),
        )
        checkpoints = Checkpoints(config, world, means, progress, ending.saved)
        mults = lr_mults(start.net, config.optim.layers)
        solve(Run(config, world, engine, tracker, train_set, test_set, corrupt, checkpoints, stopping, mults), progress)
        failed = False
    finally:
        tracker.close(failed=failed)


def solve(run: Run, progress: Progress) -> None:
    """Trains from `progress` to the last iteration, testing, telling and saving on the way, unless asked to stop."""
    config, world, tracker, start = run.config, run.world, run.tracker, progress.iteration
    window = LossWindow(config.train.average_loss, progress.losses)
    slices = train_slices(config, start, world.rank, world.size)
    world.settle()
    batches = read_batches(run.train, slices, config.data.workers, world.device)
    waited = 0.0
    tracker.begin(start)
    for iteration in range(start, config.train.max_iter):
        if _is_due(iteration, config.train.test_interval) and (iteration > 0 or config.train.test_initialization):
            progress = run_test(run, progress, window)
        if run.stopping.asked():
            break
        world.doing("reading data", iteration)
        began = time.monotonic()
        micro_batches = [next(batches) for _ in range(config.train.iter_size)]
        waited += time.monotonic() - began
        world.doing("in the step and its all-reduce", iteration)
        lr = learning_rate(config.optim, iteration, config.train.max_iter)
        window.add(run.engine.train_step(iteration, micro_batches, lr), iteration)
        run.corrupt[0].add_all(micro_batches)
        if _is_due(iteration, config.train.display):
            rates = {"lr": lr, **{f"lr_x{mult:g}": lr * mult for mult in run.lr_mults}}
            tracker.trained(iteration, gather(run, window), rates | run.engine.scalars(), waited)
            waited = 0.0
        tracker.advance(iteration)
        run.checkpoints.check()
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        if _is_due(progress.iteration, config.checkpoint.snapshot) and progress.iteration < config.train.max_iter:
            save(run, progress, window)
    if progress.iteration == config.train.max_iter and not run.stopping.by:
        progress = run_test(run, progress, window)
    save(run, progress, window)
    world.doing("waiting for the checkpoint", progress.iteration)
    run.checkpoints.wait()
    if run.stopping.by:
        name, iteration = run.stopping.by.name, progress.iteration
        raise Stopped(run.stopping.by, f"stopped by {name} after {iteration} iterations; the same command goes on")
    tracker.say("Optimization Done.")


def run_test(run: Run, progress: Progress, window: LossWindow) -> Progress:
    """Tests the weights as they are, unless there is nothing to test on or it has been done."""
    iteration, world = progress.iteration, run.world
    if run.test is None or any(told["iteration"] == iteration for told in progress.tests):
        return progress
    gather(run, window)
    run.tracker.testing(iteration)
    world.doing("testing", iteration)
    world.settle()
    slices = test_slices(run.config, run.test.order.rows, iteration, world.rank, world.size)
    batches = read_batches(run.test, slices, run.config.data.workers, world.device)

    def stop() -> bool:
        world.doing("testing", iteration)
        return run.stopping.asked()

    result = test(run.engine.forward, batches, run.corrupt[1], world, stop)
    if result is None:
        return progress
    for line in run.corrupt[1].gather(world):
        run.tracker.say(line)
    run.tracker.tested(iteration, result)
    told = {"iteration": iteration, "accuracy": result.accuracy, "loss": result.loss}
    return dataclasses.replace(progress, tests=[*progress.tests, told])


def save(run: Run, progress: Progress, window: LossWindow) -> None:
    """Saves what is new, unless the weights have gone astray."""
    if run.checkpoints.has(progress):
        return
    run.world.doing("saving a checkpoint", progress.iteration)
    losses = gather(run, window)
    state = run.engine.state()
    path = path_of(Path(run.config.run_dir), progress.iteration)
    if not is_finite(state, run.world):
        if run.config.train.stop_on_nonfinite:
            raise NotFiniteError(f"the weights aren't finite after {progress.iteration} iterations; {_remedy(run)}")
        run.tracker.say(f"{path} is not written, since the weights aren't finite")
        return
    run.tracker.say(f"Snapshotting to {path}")
    progress = dataclasses.replace(progress, losses=losses, corrupt=run.corrupt[0].rows)
    run.tracker.saved(progress.iteration, run.checkpoints.save(progress, state))


def gather(run: Run, window: LossWindow) -> list[float]:
    """Waits for the device and all ranks, and returns the last losses; names what went wrong since the last time."""
    losses = window.gather(run.world)
    first = window.first_not_finite(run.world)
    if first is not None and run.config.train.stop_on_nonfinite:
        raise NotFiniteError(f"the loss isn't finite at iteration {first}; {_remedy(run)}")
    for line in run.corrupt[0].gather(run.world):
        run.tracker.say(line)
    return losses


def _remedy(run: Run) -> str:
    last = run.checkpoints.last()
    good = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"{good}; lower optim.base_lr, or go on all the same with --train.stop_on_nonfinite=false"


def _is_due(iteration: int, interval: int) -> bool:
    return interval > 0 and iteration % interval == 0


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
