"""Exports a network to Caffe's files: `python -m stylefinetune.export RUN --to caffemodel`."""

import re
import sys
from pathlib import Path

import torch
from google.protobuf import text_format
from jsonargparse import ArgumentParser

from stylefinetune.caffe.deploy_net import deploy_net
from stylefinetune.caffe.files import write_caffemodel, write_mean
from stylefinetune.checkpoint.checkpoint import Checkpoint, read_checkpoint
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.config.schema import CAFFENET
from stylefinetune.errors import UserError, run_command
from stylefinetune.models.layer_names import layer_name


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "export",
        "Exports a network to Caffe's files, which Caffe and OpenCV read.",
        ["runs/mine --to caffemodel", "runs/mine:best --to caffemodel --out exported"],
    )
    parser.add_argument("checkpoint", type=Path, help="RUN, RUN:best, RUN:ITERATION or a checkpoint's folder")
    parser.add_argument("--to", choices=["caffemodel"], required=True, help="format: caffemodel for Caffe and OpenCV 4")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="output folder (default: .)")
    add_ema_option(parser)
    return parser


def export(arguments: list[str]) -> None:
    """Write the files and print their names."""
    options = parse_command(build_parser(), arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for path in write_caffe(read_checkpoint(options.checkpoint).with_weights(ema=options.ema), options.out):
            print(path)
    except OSError as error:
        raise UserError(f"{error.filename or options.out} can't be written: {error.strerror}") from error


def write_caffe(saved: Checkpoint, folder: Path) -> list[Path]:
    """Write the files for Caffe's classification example.

    Returns:
        NAME_deploy.prototxt, NAME.caffemodel, NAME_mean.binaryproto and NAME_labels.txt: the order of its arguments.

    Raises:
        UserError: the network has a layer that Caffe does not have, or a file cannot be written.
    """
    if saved.config.model.arch != CAFFENET:
        raise UserError(f"{saved.path} is a {saved.config.model.arch}, and only caffenet can be exported to Caffe")
    phase = saved.config.data.phase(training=False)
    if (phase.resize, phase.channels, phase.std_value) != ("warp", "bgr", ()):
        raise UserError(
            f"{saved.path} was trained with data.resize={phase.resize}, data.channels={phase.channels} and "
            f"data.std_value={list(phase.std_value)}; Caffe's files can only say warp, bgr and no data.std_value"
        )
    net, _ = saved.build_network(torch.device("cpu"))
    height, width = saved.progress.input_size
    layers = {layer_name(module): layer for module, layer in net.named_children()}
    output = "Softmax" if saved.config.train.loss == "softmax" else "Sigmoid"
    deploy = deploy_net(layers.items(), saved.config.model.title, (height, width), output)
    stem = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', deploy.name)}_iter_{saved.progress.iteration}"
    paths = [folder / f"{stem}{end}" for end in ("_deploy.prototxt", ".caffemodel", "_mean.binaryproto", "_labels.txt")]
    text, model, mean, labels = paths
    text.write_text(_comment(saved, mean.name) + text_format.MessageToString(deploy), encoding="utf-8")
    blobs = {
        name: [parameter.detach().numpy() for parameter in layer.parameters()]
        for name, layer in layers.items()
        if any(True for _ in layer.parameters())
    }
    write_caffemodel(model, deploy, blobs)
    picture_size = saved.progress.picture_size
    write_mean(mean, saved.means[1].expand(*picture_size, 3).flip(-1).permute(2, 0, 1).numpy())  # before the crop
    labels.write_text("".join(f"{name}\n" for name in saved.progress.classes), encoding="utf-8")
    return paths


def _comment(saved: Checkpoint, mean: str) -> str:
    """Return the comment for the deploy prototxt that describes the preprocessing."""
    height, width = saved.progress.picture_size
    scale = saved.config.data.phase(training=False).scale
    return (
        f"# Input: the picture resized to {width}x{height}, channels in the order B, G, R, values 0..255,\n"
        f"# minus the mean in {mean}{'' if scale == 1 else f', times {scale:g}'}; cropped at the centre.\n"
    )


if __name__ == "__main__":
    sys.exit(run_command(export, sys.argv[1:]))
