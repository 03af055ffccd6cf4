"""Classifies pictures: `stylefinetune predict INPUT... --checkpoint RUN`."""

import sys
from pathlib import Path
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from shards.format.images import PICTURE_EXTENSIONS
from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command
from stylefinetune.losses.loss import to_probabilities
from stylefinetune.prediction.class_output import FORMAT_OF_SUFFIX, Format, open_class_output
from stylefinetune.prediction.inputs import open_inputs
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.options import (
    INPUT_HELP,
    add_picture_options,
    check_out,
    check_picture_options,
    open_loader,
)
from stylefinetune.prediction.stream import read_pictures


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "predict",
        f"Classifies pictures, and prints the most probable classes of each.\n{INPUT_HELP}",
        [
            "photo.jpg --checkpoint runs/mine",
            "photos 'more/**/*.jpg' https://example.org/cat.jpg --checkpoint runs/mine:best --top 1 --format csv",
            "list.parquet --column image_url --checkpoint runs/mine --out classes.parquet",
        ],
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures; see above")
    add_network_options(parser, "--checkpoint", required=True)
    parser.add_argument("--top", type=int, default=5, help="number of classes of each picture")
    parser.add_argument("--crops", type=int, default=1, help="crops of each picture to average: 1, or 10 as in Caffe")
    parser.add_argument("--flip", action="store_true", help="average each crop with its mirror image")
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        help="format of the output (default: that of --out's suffix, or table)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write at the end, instead of stdout")
    add_picture_options(parser)
    add_ema_option(parser)
    return parser


def predict(arguments: list[str]) -> None:
    """Write the most probable classes of each picture; by default, in the format of Caffe's classification example."""
    options = parse_command(build_parser(), arguments)
    kind = _check(options)
    world = World.alone()
    inputs = open_inputs(options.inputs, world, split=options.split, column=options.column)
    saved = open_network(options, options.checkpoint).with_weights(ema=options.ema)
    network = PictureNetwork(saved, world.device, crops=options.crops, flip=options.flip)
    classes, loss = saved.progress.classes, saved.config.train.loss
    top = min(options.top, len(classes))
    is_quiet = options.out is not None or not sys.stdout.isatty()  # else the results themselves show the progress
    with (
        open_class_output(kind, options.out, classes, top, saved.path) as write,
        read_pictures(inputs, open_loader(options, network), show_bar=is_quiet) as batches,
    ):
        for batch in batches:
            probabilities, labels = to_probabilities(network(batch.pictures), loss).topk(top)
            write(batch.names, list(zip(labels.tolist(), probabilities.tolist(), strict=True)))
    batches.raise_failures()


def _check(options: Namespace) -> Format:
    """Check the flags, and return the format."""
    if options.top < 1:
        raise UserError(f"--top is {options.top}; it must be at least 1")
    if options.crops not in (1, 10):
        raise UserError(f"--crops is {options.crops}; it must be 1 or 10")
    check_picture_options(options)
    check_out(options.out, options.inputs)
    suffix = options.out.suffix.lower() if options.out else ""
    if suffix.removeprefix(".") in PICTURE_EXTENSIONS:
        raise UserError(f"--out is {options.out}, the name of a picture; give a file such as classes.csv")
    by_suffix = FORMAT_OF_SUFFIX.get(suffix)
    kind: Format = options.format or by_suffix or "table"
    if kind == "parquet" and options.out is None:
        raise UserError("--format parquet needs --out FILE")
    return kind


if __name__ == "__main__":
    sys.exit(run_command(predict, sys.argv[1:]))
