"""Fine-tunes a network: `torchrun --nproc_per_node N -m stylefinetune.train [--config FILE] [--dotted.key=value ...]`.

With nothing more, it runs Caffe's Flickr Style recipe.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path

import torch

from stylefinetune import checkpoint, models
from stylefinetune.checkpoint import Progress
from stylefinetune.config import Config
from stylefinetune.config_io import parse
from stylefinetune.data import PictureSet, load_mean, open_index, open_split, read_batches
from stylefinetune.engines.engine import Engine
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.errors import UserError, run_command
from stylefinetune.evaluate import test
from stylefinetune.metrics import LossWindow
from stylefinetune.optimizer import lr_mults
from stylefinetune.order import test_slices, train_slices
from stylefinetune.schedule import learning_rate
from stylefinetune.solver import find_lists, pack, read_solver
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
        means: what is subtracted from them in training and in testing; copied into checkpoints.
        lr_mults: the layers' distinct multipliers.
    """

    config: Config
    world: World
    engine: Engine
    tracker: Tracker
    train: PictureSet
    test: PictureSet | None
    means: tuple[torch.Tensor, torch.Tensor]
    lr_mults: list[float]


def main(arguments: list[str]) -> None:
    """Runs the command line `arguments`; what a user can get wrong is checked before anything is written."""
    config = parse(arguments, read_solver)
    world = World.join(deterministic=config.train.deterministic)
    if config.solver and not config.data.shards:
        lists = find_lists(config)
        world.lead_first(lambda: pack(lists))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(lists.shards)))
    index = open_index(config.data)
    classes = index.metadata.classes
    phases = [config.data.phase(training=training) for training in (True, False)]
    train_set, test_set = (
        PictureSet(open_split(index, phase.split), phase, config.train.seed) if phase.split else None
        for phase in phases
    )
    assert train_set is not None
    tested = test_set or train_set
    resumed = checkpoint.find(config)
    if resumed:
        checkpoint.check_data(resumed, config, classes, index.fingerprint)
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
    resumed = resumed or checkpoint.restore_caffe(config, net, fresh, means)
    progress = resumed.progress if resumed else fresh

    tracker = Tracker(config, world, progress.iteration, [round(told["iteration"]) for told in progress.tests])
    failed = True
    try:
        if resumed:
            tracker.say(f"Restoring previous solver status from {resumed.path}")
        elif config.weights:
            tracker.say(f"Finetuning from {config.weights}")
            load_weights(net, config.weights, tracker.say)
        engine = TorchEngine(
            net,
            (Transform(means[0], phases[0].scale, world.device), Transform(means[1], phases[1].scale, world.device)),
            config.optim,
            world,
            seed=config.train.seed,
            input_size=train_set.input_size,
        )
        if resumed:
            engine.load(resumed.engine_state(engine.state()))
        tracker.say(f"Solving {config.model.name}")
        tracker.say(f"Learning Rate Policy: {config.optim.lr_policy}")
        mults = lr_mults(net, config.optim.layers)
        solve(Run(config, world, engine, tracker, train_set, test_set, means, mults), progress)
        tracker.say("Optimization Done.")
        failed = False
    finally:
        tracker.close(failed=failed)
    world.leave()


def solve(run: Run, progress: Progress) -> None:
    """Trains from `progress` to the last iteration, testing, telling and saving on the way."""
    config, tracker, start = run.config, run.tracker, progress.iteration
    window = LossWindow(config.train.average_loss, progress.losses)
    slices = train_slices(config, start, run.world.rank, run.world.size)
    batches = read_batches(run.train, slices, config.data.workers, run.world.device)
    waited = 0.0
    tracker.begin(start)
    for iteration in range(start, config.train.max_iter):
        if _is_due(iteration, config.train.test_interval) and (iteration > 0 or config.train.test_initialization):
            progress = run_test(run, progress, iteration)
        began = time.monotonic()
        micro_batches = [next(batches) for _ in range(config.train.iter_size)]
        waited += time.monotonic() - began
        lr = learning_rate(config.optim, iteration, config.train.max_iter)
        window.add(run.engine.train_step(iteration, micro_batches, lr))
        if _is_due(iteration, config.train.display):
            rates = {"lr": lr, **{f"lr_x{mult:g}": lr * mult for mult in run.lr_mults}}
            tracker.trained(iteration, _finite(window.gather(run.world), iteration), rates, waited)
            waited = 0.0
        tracker.advance(iteration)
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        if _is_due(progress.iteration, config.checkpoint.snapshot) and progress.iteration < config.train.max_iter:
            save(run, progress, window)
    if start < config.train.max_iter:
        progress = run_test(run, progress, config.train.max_iter)
        save(run, progress, window)


def run_test(run: Run, progress: Progress, iteration: int) -> Progress:
    """Tests the weights after `iteration` iterations, unless there is nothing to test on or it has been done."""
    if run.test is None or any(told["iteration"] == iteration for told in progress.tests):
        return progress
    run.tracker.testing(iteration)
    slices = test_slices(run.config, run.test.order.rows, iteration, run.world.rank, run.world.size)
    batches = read_batches(run.test, slices, run.config.data.workers, run.world.device)
    result = test(run.engine.forward, batches, run.world)
    run.tracker.tested(iteration, result)
    told = {"iteration": iteration, "accuracy": result.accuracy, "loss": result.loss}
    return dataclasses.replace(progress, tests=[*progress.tests, told])


def save(run: Run, progress: Progress, window: LossWindow) -> None:
    """Writes a checkpoint, unless the run has gone astray."""
    losses = _finite(window.gather(run.world), progress.iteration - 1)
    state = run.engine.state()
    if run.world.is_lead:
        run_dir = Path(run.config.run_dir)
        run.tracker.say(f"Snapshotting to {checkpoint.path_of(run_dir, progress.iteration)}")
        checkpoint.save(run_dir, dataclasses.replace(progress, losses=losses), state, run.config, run.means)


def _is_due(iteration: int, interval: int) -> bool:
    return interval > 0 and iteration % interval == 0


def _finite(losses: list[float], iteration: int) -> list[float]:
    if not all(map(math.isfinite, losses)):
        raise UserError(
            f"the loss is {losses[-1]} at iteration {iteration}; lower optim.base_lr, "
            "and go on from the last checkpoint with the same command"
        )
    return losses


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
