"""Takes a network to where Caffe's files are read: `python -m stylefinetune.export RUN --to caffemodel`."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import torch
from google.protobuf import text_format
from torch import nn

from stylefinetune import checkpoint
from stylefinetune.caffe_files import write_caffemodel, write_mean
from stylefinetune.caffe_schema import message_class
from stylefinetune.checkpoint import Checkpoint
from stylefinetune.errors import UserError, run_command

INPUT, OUTPUT = "data", "prob"


def export(arguments: list[str]) -> None:
    """Runs the command line `arguments`: writes the files and prints their names."""
    parser = argparse.ArgumentParser(prog="python -m stylefinetune.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder for its newest one")
    parser.add_argument("--to", choices=["caffemodel"], required=True, help="for Caffe, and for OpenCV 4's dnn")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for path in write_caffe(checkpoint.read(options.checkpoint), options.out):
            print(path)
    except OSError as error:
        raise UserError(f"{error.filename or options.out} can't be written: {error.strerror}") from error


def write_caffe(saved: Checkpoint, folder: Path) -> list[Path]:
    """Writes what Caffe's classification example takes, in the order in which it takes it.

    Returns:
        NAME_deploy.prototxt, NAME.caffemodel, NAME_mean.binaryproto and NAME_labels.txt.

    Raises:
        UserError: Caffe has no layer for one of the network's, or a file can't be written.
    """
    net, _ = saved.network(torch.device("cpu"))
    height, width = saved.progress.input_size
    deploy = deploy_net(net, saved.config.model.name, (height, width))
    stem = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', deploy.name)}_iter_{saved.progress.iteration}"
    paths = [folder / f"{stem}{end}" for end in ("_deploy.prototxt", ".caffemodel", "_mean.binaryproto", "_labels.txt")]
    text, model, mean, labels = paths
    text.write_text(_head(saved, mean.name) + text_format.MessageToString(deploy), encoding="utf-8")
    blobs = {
        name: [parameter.detach().numpy() for parameter in layer.parameters()]
        for name, layer in net.named_children()
        if any(True for _ in layer.parameters())
    }
    write_caffemodel(model, deploy, blobs)
    write_mean(mean, _mean_picture(saved))
    labels.write_text("".join(f"{name}\n" for name in saved.progress.classes), encoding="utf-8")
    return paths


def _head(saved: Checkpoint, mean: str) -> str:
    """Returns what a text of layers can't say: how its input is made."""
    height, width = saved.progress.picture_size
    scale = saved.config.data.phase(training=False).scale
    return (
        f"# Input: a picture resized to {width}x{height}, channels in the order B, G, R, levels 0..255,\n"
        f"# less the mean in {mean}{'' if scale == 1 else f', times {scale:g}'}; cut from its centre.\n"
    )


def _mean_picture(saved: Checkpoint) -> Any:  # noqa: ANN401 -- a numpy array, whose types say nothing more
    """Returns float32 [3, H, W], BGR, as large as the pictures before they are cut."""
    height, width = saved.progress.picture_size
    return saved.means[1].expand(height, width, 3).flip(-1).permute(2, 0, 1).numpy()


def deploy_net(net: nn.Module, name: str, input_size: tuple[int, int]) -> Any:  # noqa: ANN401 -- see message_class
    """Returns a NetParameter that takes one picture to its classes' probabilities.

    Args:
        net: layers in a row, each applied to the last one's output.
        name: the net's.
        input_size: (height, width) in pixels.

    Raises:
        UserError: Caffe has no layer for one of the network's.
    """
    deploy = message_class("NetParameter")(name=name)
    data = deploy.layer.add(name=INPUT, type="Input", top=[INPUT])
    data.input_param.shape.add(dim=[1, 3, *input_size])
    blob = INPUT
    for layer_name, layer in net.named_children():
        if isinstance(layer, nn.Flatten) or (isinstance(layer, nn.Dropout) and layer.p == 0):
            continue  # Caffe's InnerProduct flattens by itself, and its Dropout must drop something
        in_place = isinstance(layer, (nn.ReLU, nn.Dropout))
        top = blob if in_place else layer_name
        _describe(layer, deploy.layer.add(name=layer_name, bottom=[blob], top=[top]))
        blob = top
    deploy.layer.add(name=OUTPUT, type="Softmax", bottom=[blob], top=[OUTPUT])
    return deploy


def _describe(layer: nn.Module, message: Any) -> None:  # noqa: ANN401 -- see message_class
    """Fills a LayerParameter's type and parameters."""
    match layer:
        case nn.Conv2d(dilation=(1, 1), padding_mode="zeros"):
            message.type = "Convolution"
            values = message.convolution_param
            values.num_output, values.group = layer.out_channels, layer.groups
            values.kernel_size.append(_side(layer.kernel_size))
            values.stride.append(_side(layer.stride))
            values.pad.append(_side(layer.padding))
        case nn.Linear():
            message.type = "InnerProduct"
            message.inner_product_param.num_output = layer.out_features
        case nn.ReLU():
            message.type = "ReLU"
        case nn.Dropout():
            message.type = "Dropout"
            message.dropout_param.dropout_ratio = layer.p
        case nn.MaxPool2d(ceil_mode=True, padding=0, dilation=1):
            message.type = "Pooling"
            message.pooling_param.kernel_size = _side(layer.kernel_size)
            message.pooling_param.stride = _side(layer.stride)
        case nn.LocalResponseNorm():
            message.type = "LRN"
            values = message.lrn_param
            values.local_size, values.alpha, values.beta, values.k = layer.size, layer.alpha, layer.beta, layer.k
        case _:
            raise UserError(f"layer {message.name} ({layer}) can't be exported: Caffe has none like it")


def _side(size: Any) -> int:  # noqa: ANN401 -- an int, or a tuple of them
    sides = {size} if isinstance(size, int) else set(size)
    assert len(sides) == 1
    return sides.pop()


if __name__ == "__main__":
    sys.exit(run_command(export, sys.argv[1:]))
