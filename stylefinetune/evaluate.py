"""Evaluates a checkpoint on a test set: `stylefinetune evaluate RUN`, alone or under torchrun."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser

from shards.format import counted
from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command, write_error
from stylefinetune.evaluation.baselines.baselines import Baselines
from stylefinetune.evaluation.metrics import Evaluation
from stylefinetune.evaluation.predictions import Predictions, write_predictions
from stylefinetune.evaluation.several_labels import LabelEvaluation
from stylefinetune.evaluation.suspects import Suspects, find_suspects, write_suspects
from stylefinetune.evaluation.table import describe, describe_baselines, describe_labels, describe_suspects
from stylefinetune.testing.baselines import TRAINING_PICTURES, BaselineTest, check_one_label
from stylefinetune.testing.test_set import TestSet, Views, evaluate_all


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "evaluate",
        "Tests a checkpoint on the test split of its run, or on other shards.",
        [
            "runs/mine",
            "runs/mine:best --out runs/mine/evaluation --baselines train --suspects",
            "runs/mine --data other_shards --split val --crops 10",
        ],
    )
    add_network_options(parser, "checkpoint")
    parser.add_argument("--data", "--shards", help="test on these shards instead of those of the run")
    parser.add_argument("--split", help="test on this split instead of the test split of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for metrics.json and predictions.parquet")
    parser.add_argument("--crops", type=int, default=1, help="crops of each picture to average: 1, or 10 as in Caffe")
    parser.add_argument("--flip", action="store_true", help="average each crop with its mirror image")
    parser.add_argument(
        "--baselines",
        metavar="SPLIT",
        help="also test the nearest neighbours and a linear probe of the features, fitted to this split",
    )
    parser.add_argument(
        "--baseline_pictures",
        type=int,
        help=f"pictures of SPLIT to use (default: {TRAINING_PICTURES:,}; 0: all)",
    )
    parser.add_argument(
        "--suspects",
        action="store_true",
        help="also list labels that are probably wrong; with --out, write suspects.parquet",
    )
    parser.add_argument("--workers", type=int, help="decoding processes per rank (default: data.workers of the run)")
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
    if options.suspects:
        check_one_label(test, "--suspects")
    baseline_test = _open_baselines(test, options.baselines, options.baseline_pictures)
    world = World.join(stall_seconds=saved.config.train.stall_seconds)
    if options.out:
        world.main_first(lambda: _make_folder(options.out))  # before the test, which may take long
    predictions = test.predict(world, workers=options.workers)
    baselines = baseline_test.run(world, workers=options.workers) if baseline_test else None
    suspects = find_suspects(predictions) if options.suspects else None
    found = _Found(test, predictions, baselines, suspects)
    world.main_first(lambda: _report(found, options.out))
    world.shutdown()


def _open_baselines(test: TestSet, split: str | None, limit: int | None) -> BaselineTest | None:
    if split is not None:
        return BaselineTest.open(test, split, TRAINING_PICTURES if limit is None else limit)
    if limit is not None:
        raise UserError(f"--baseline_pictures is {limit}, but --baselines is missing; add --baselines SPLIT")
    return None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error.strerror) from error


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is reported."""

    test: TestSet
    predictions: Predictions
    baselines: Baselines | None
    suspects: Suspects | None


def _report(found: _Found, out: Path | None) -> None:
    """Print the evaluation, and write it to the folder `out`."""
    saved, pictures, predictions = found.test.saved, found.test.pictures, found.predictions
    evaluation = evaluate_all(predictions)
    written = _write(found, evaluation, out) if out else []  # before a reader may end early
    count = counted(len(predictions), "picture")
    print(f"{saved.path}, {count} of {pictures.entries.root}, split {pictures.phase.split}")
    for line in _describe(found, evaluation):
        print(line)
    first = saved.config.train.test_iter * pictures.phase.batch_size
    if 0 < first < len(predictions):  # Caffe tests a part of the list
        part = evaluate_all(predictions.first(first))
        print(
            f"\nThe first {first} pictures, which Caffe tests: accuracy = {part.accuracy:.6g}, loss = {part.loss:.6g}"
        )
    for path in written:
        print(path)


def _describe(found: _Found, evaluation: Evaluation | LabelEvaluation) -> Iterator[str]:
    """Yield the lines of the report."""
    if isinstance(evaluation, LabelEvaluation):
        yield from describe_labels(evaluation)
        return
    yield from describe(evaluation)
    if found.baselines:
        yield from describe_baselines(evaluation, found.baselines)
    if found.suspects is not None:
        keys = found.test.pictures.entries.key
        yield from describe_suspects(found.suspects, evaluation.count, lambda row: keys[row])
        if found.test.is_training_split:
            yield "The network was trained on these pictures, and has learned many of the wrong labels."
            yield "Evaluate pictures that it was not trained on."


def _write(found: _Found, evaluation: Evaluation | LabelEvaluation, out: Path) -> list[Path]:
    """Write metrics.json, predictions.parquet and, if they were looked for, suspects.parquet; return their paths."""
    pictures = found.test.pictures
    source = {
        "checkpoint": str(found.test.saved.path),
        "shards": str(pictures.entries.root),
        "split": pictures.phase.split,
    }
    values = source | evaluation.to_json()
    if found.baselines:
        values["baselines"] = found.baselines.to_json()
    if found.suspects is not None:
        values["suspects"] = len(found.suspects)
    paths = [out / "metrics.json", out / "predictions.parquet"]
    try:
        paths[0].write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        write_predictions(found.predictions, pictures, paths[1], source)
        if found.suspects is not None:
            paths.append(out / "suspects.parquet")
            write_suspects(found.suspects, pictures.entries, paths[2], source)
    except OSError as error:
        raise write_error(Path(error.filename or out), error.strerror) from error
    return paths


if __name__ == "__main__":
    sys.exit(run_command(evaluate, sys.argv[1:]))
