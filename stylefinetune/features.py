"""Writes what a layer computes for pictures: `stylefinetune features RUN INPUT... --out FILE`."""

import sys
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, joined_sizes, run_command
from stylefinetune.prediction.feature_output import FEATURE_SUFFIXES, open_feature_output
from stylefinetune.prediction.inputs import open_inputs
from stylefinetune.prediction.layers import LayerOutput, list_layers
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
        "features",
        f"Writes the output of a layer for each picture, as Caffe's extract_features does.\n{INPUT_HELP}",
        [
            "runs/mine --list_layers",
            "runs/mine photos --out features.parquet",
            "runs/mine:best data/mine --split test --layer fc7 --out fc7.npy",
        ],
    )
    add_network_options(parser, "checkpoint")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="pictures; see above")
    parser.add_argument("--layer", help="name of the layer (default: the input of the classifier)")
    parser.add_argument("--list_layers", action="store_true", help="print the layers and the shapes of their outputs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write: NAME.parquet, or NAME.npy, with the names in NAME.names.txt",
    )
    add_picture_options(parser)
    add_ema_option(parser)
    return parser


def features(arguments: list[str]) -> None:
    """Write the outputs of a layer, or list the layers."""
    options = parse_command(build_parser(), arguments)
    check_picture_options(options)
    if not options.list_layers:
        _check_files(options.inputs, options.out)
    world = World.alone()
    inputs = open_inputs(options.inputs, world, split=options.split, column=options.column)
    saved = open_network(options, options.checkpoint).with_weights(ema=options.ema)
    network = PictureNetwork(saved, world.device)
    if options.list_layers:
        _print_layers(network)
        return
    layer = LayerOutput(network.net, options.layer)
    metadata = {"checkpoint": str(saved.path), "layer": layer.name}
    with (
        open_feature_output(options.out, metadata) as write,
        read_pictures(inputs, open_loader(options, network), show_bar=True) as batches,
    ):
        for batch in batches:
            network(batch.pictures)
            write(batch.names, layer.take().numpy())
    batches.raise_failures()


def _check_files(inputs: list[str], out: Path | None) -> None:
    if not inputs:
        raise UserError("no pictures are given; name files, folders or lists after the checkpoint")
    if out is None or out.suffix not in FEATURE_SUFFIXES:
        found = "missing" if out is None else f"{out}"
        raise UserError(f"--out is {found}; it must be a file that ends with {' or '.join(FEATURE_SUFFIXES)}")
    check_out(out, inputs)


def _print_layers(network: PictureNetwork) -> None:
    black = torch.zeros(1, *network.size, 3, dtype=torch.uint8)
    layers = list_layers(network.net, lambda: network(black))
    width, kind_width = (max(len(layer[column]) for layer in layers) for column in (0, 1))
    for name, kind, shape in layers:
        print(f"{name:{width}}  {kind:{kind_width}}  {joined_sizes(shape)}")


if __name__ == "__main__":
    sys.exit(run_command(features, sys.argv[1:]))
