"""Evaluates a checkpoint on a test set: `python -m stylefinetune.evaluate RUN`, alone or under torchrun."""

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.data.dataset import PictureDataset
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command, write_error
from stylefinetune.evaluation.metrics import Evaluation
from stylefinetune.evaluation.predictions import Predictions, write_predictions
from stylefinetune.evaluation.several_labels import LabelEvaluation
from stylefinetune.evaluation.table import describe, describe_labels
from stylefinetune.testing.test_set import TestSet, Views, evaluate_all


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
    saved = open_network(options, options.checkpoint).with_weights(ema=options.ema)
    takes_names = options.deploy and not options.class_names  # a .caffemodel has none
    views = Views(options.crops, flip=options.flip)
    test = TestSet.open(saved, options.data, options.split, views, takes_names=bool(takes_names))
    world = World.join(stall_seconds=saved.config.train.stall_seconds)
    predictions = test.predict(world, workers=options.workers)
    world.main_first(lambda: _report(test, predictions, options.out))
    world.shutdown()


def _report(test: TestSet, predictions: Predictions, out: Path | None) -> None:
    """Print the evaluation, and write it to the folder `out`."""
    saved, pictures = test.saved, test.pictures
    entries, split = pictures.entries, pictures.phase.split
    evaluation = evaluate_all(predictions)
    source = {"checkpoint": str(saved.path), "shards": str(entries.root), "split": split}
    written = _write(out, source, evaluation, predictions, pictures) if out else []  # before a reader may end early
    print(f"{saved.path}, {len(predictions)} pictures of {entries.root}, split {split}")
    for line in describe(evaluation) if isinstance(evaluation, Evaluation) else describe_labels(evaluation):
        print(line)
    first = saved.config.train.test_iter * pictures.phase.batch_size
    if 0 < first < len(predictions):  # Caffe tests a part of the list
        part = evaluate_all(predictions.first(first))
        print(
            f"\nThe first {first} pictures, which Caffe tests: accuracy = {part.accuracy:.6g}, loss = {part.loss:.6g}"
        )
    for path in written:
        print(path)


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
