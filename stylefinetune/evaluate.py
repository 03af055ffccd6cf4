"""Evaluates a checkpoint on a test set: `python -m stylefinetune.evaluate RUN`, alone or under torchrun."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from shards.format.index import ShardIndex
from shards.format.order import RankBatchSampler
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch, PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.staging.source import shard_source
from stylefinetune.data.staging.stage import stage_shards
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command, write_error
from stylefinetune.evaluation.metrics import Evaluation, evaluate_predictions
from stylefinetune.evaluation.predictions import Predictions, collect_predictions, write_predictions
from stylefinetune.evaluation.several_labels import LabelEvaluation, evaluate_labels
from stylefinetune.evaluation.table import describe, describe_labels
from stylefinetune.evaluation.views import average_views
from stylefinetune.losses.several_labels import check_loss
from stylefinetune.training.evaluation import exit_if_lost


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "evaluate",
        "Tests a checkpoint on the test split of its run, or on other shards; alone or under torchrun.",
        [
            "runs/mine",
            "runs/mine:best --out runs/mine/evaluation",
            "runs/mine --data other_shards --split val --crops 10",
        ],
    )
    add_network_options(parser, "checkpoint")
    parser.add_argument("--data", "--shards", help="test on these shards instead of those of the run")
    parser.add_argument("--split", help="test on this split instead of the test split of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write metrics.json and predictions.parquet there")
    parser.add_argument("--crops", type=int, default=1, help="crops of each picture to average: 1, or 10 as in Caffe")
    parser.add_argument("--flip", action="store_true", help="average each crop with its mirror image")
    parser.add_argument("--workers", type=int, help="decoding processes per rank")
    add_ema_option(parser)
    return parser


def evaluate(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    options = parse_command(build_parser(), arguments)
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers is {options.workers}; it must not be negative")
    if options.crops not in (1, 10):
        raise UserError(f"--crops is {options.crops}; it must be 1 or 10")
    saved = open_network(options, options.checkpoint).with_weights(ema=options.ema)
    index = _open_index(saved, options)
    saved = _with_class_names(saved, index, options)
    pictures = _open_pictures(saved, index, options)
    world = World.join(stall_seconds=saved.config.train.stall_seconds)
    if shard_source(index.root).is_remote:
        with exit_if_lost(world):
            stage_shards(index, pictures.entries.shard.distinct, index.root, world)
    predictions = _predict(saved, pictures, world, options)
    world.main_first(lambda: _report(saved, pictures, predictions, options.out))
    world.shutdown()


def _open_index(saved: Checkpoint, options: Namespace) -> ShardIndex:
    data = saved.config.data
    if options.data:
        data = dataclasses.replace(data, shards=options.data)
    if not data.shards:
        raise UserError(f"{saved.path} doesn't say on which pictures to test it; name a shard directory with --data")
    return open_index(data)


def _with_class_names(saved: Checkpoint, index: ShardIndex, options: Namespace) -> Checkpoint:
    """Return the checkpoint after checking its classes; a .caffemodel has no names, so it gets those of the shards."""
    names, own = list(index.metadata.classes), saved.progress.classes
    if options.deploy and not options.class_names and len(names) == len(own):
        return dataclasses.replace(saved, progress=dataclasses.replace(saved.progress, classes=names))
    if names != own:
        raise UserError(f"the classes of {index.root} differ from those of {saved.path}; name other --data")
    return saved


def _open_pictures(saved: Checkpoint, index: ShardIndex, options: Namespace) -> PictureDataset:
    phase = saved.config.data.phase(training=False)
    if options.split:
        phase = dataclasses.replace(phase, split=options.split)
    if options.crops > 1 and phase.resize == "shorter_side" and phase.image_size:
        phase = dataclasses.replace(phase, crop_size=phase.image_size[0])  # the views are cut from the whole square
    check_loss(saved.config.train.loss, index)
    return PictureDataset(open_split(index, phase.split, "--split"), phase, seed=saved.progress.seed)


def _predict(saved: Checkpoint, pictures: PictureDataset, world: World, options: Namespace) -> Predictions:
    """Return the predictions for all pictures; collective."""
    net, transform = saved.build_network(world.device)
    loss = saved.config.train.loss

    @torch.no_grad()
    def classify(batch: Batch) -> torch.Tensor:
        return net(transform(batch.pictures, batch.crops))

    def forward(batch: Batch) -> torch.Tensor:
        if options.crops == 1 and not options.flip:
            return classify(batch)
        height, width = saved.progress.input_size
        crops = dataclasses.replace(batch.crops, size=(height, width))
        views = dataclasses.replace(batch, crops=crops)
        return average_views(classify, views, crops=options.crops, mirror=options.flip, loss=loss)

    data, count = saved.config.data, len(pictures.entries)
    sampler = RankBatchSampler(0, count, pictures.phase.batch_size, world.rank, world.size)
    workers = data.workers if options.workers is None else options.workers
    world.drain_collectives()
    corrupt = CorruptPictures(pictures, data.max_corrupt, [])
    world.set_activity("testing", saved.progress.iteration)
    with exit_if_lost(world), _progress_bar(count, world) as advance:

        def on_batch(batch: Batch) -> None:
            corrupt.add_batches([batch])
            world.set_activity("testing", saved.progress.iteration)
            advance(batch.size)

        batches = load_batches(pictures, sampler, workers, world.device)
        predictions = collect_predictions(forward, batches, pictures, saved.progress.classes, world, on_batch, loss)
    for line in corrupt.gather(world):
        if world.is_main:
            sys.stderr.write(f"warning: {line}\n")
    return predictions


@contextlib.contextmanager
def _progress_bar(count: int, world: World) -> Generator[Callable[[int], None]]:
    """Show the pictures done and the remaining time on a terminal; yields a function to call with their number."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (world.is_main and console.is_terminal)
    ) as bar:
        task = bar.add_task("pictures", total=count)
        yield lambda done: bar.advance(task, done)


def _report(saved: Checkpoint, pictures: PictureDataset, predictions: Predictions, out: Path | None) -> None:
    """Print the evaluation, and write it to the folder `out`."""
    entries, split = pictures.entries, pictures.phase.split
    if not len(predictions):
        raise UserError(f"no picture of {entries.root}, split {split}, can be decoded")
    evaluation = _evaluate(predictions)
    source = {"checkpoint": str(saved.path), "shards": str(entries.root), "split": split}
    written = _write(out, source, evaluation, predictions, pictures) if out else []  # before a reader may end early
    print(f"{saved.path}, {len(predictions)} pictures of {entries.root}, split {split}")
    for line in describe(evaluation) if isinstance(evaluation, Evaluation) else describe_labels(evaluation):
        print(line)
    first = saved.config.train.test_iter * pictures.phase.batch_size
    if 0 < first < len(predictions):  # Caffe tests a part of the list
        part = _evaluate(predictions.first(first))
        print(
            f"\nThe first {first} pictures, which Caffe tests: accuracy = {part.accuracy:.6g}, loss = {part.loss:.6g}"
        )
    for path in written:
        print(path)


def _evaluate(predictions: Predictions) -> Evaluation | LabelEvaluation:
    return evaluate_predictions(predictions) if predictions.several is None else evaluate_labels(predictions)


def _write(
    out: Path,
    source: dict[str, str],
    evaluation: Evaluation | LabelEvaluation,
    predictions: Predictions,
    pictures: PictureDataset,
) -> list[Path]:
    """Write metrics.json and predictions.parquet, and return their paths."""
    metrics, table = out / "metrics.json", out / "predictions.parquet"
    try:
        out.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps(source | evaluation.to_json(), indent=1) + "\n", encoding="utf-8")
        write_predictions(predictions, pictures, table, source)
    except OSError as error:
        raise write_error(Path(error.filename or out), error.strerror) from error
    return [metrics, table]


if __name__ == "__main__":
    sys.exit(run_command(evaluate, sys.argv[1:]))
