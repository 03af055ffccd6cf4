"""Writes a network as Caffe's files, which Caffe and OpenCV 4 read, and loads them again."""

import re
from pathlib import Path
from typing import Any

import torch
from google.protobuf import text_format
from torch import nn

from stylefinetune.caffe.deploy_net import deploy_net
from stylefinetune.caffe.files import read_mean, write_caffemodel, write_mean
from stylefinetune.caffe.graph.deploy import deploy_graph
from stylefinetune.caffe.graph.store import read_stored
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.config.schema import CAFFE_GRAPH, CAFFENET
from stylefinetune.errors import UserError
from stylefinetune.export.network import TrainedNetwork
from stylefinetune.export.pictures import Pictures
from stylefinetune.models.build import build_model
from stylefinetune.models.caffe_graph.blobs import layer_blobs
from stylefinetune.models.layer_names import layer_name
from stylefinetune.models.weights import load_weights


def check_network(saved: Checkpoint) -> None:
    """Check that Caffe has the network and can make its input.

    Raises:
        UserError: it can't.
    """
    if saved.config.model.arch not in (CAFFENET, CAFFE_GRAPH):
        raise UserError(f"{saved.path} is a {saved.config.model.arch}, and only Caffe's nets can be exported to Caffe")
    phase = saved.config.data.phase(training=False)
    if (phase.resize, phase.channels, phase.std_value) != ("warp", "bgr", ()):
        raise UserError(
            f"{saved.path} was trained with data.resize={phase.resize}, data.channels={phase.channels} and "
            f"data.std_value={list(phase.std_value)}; Caffe's files can only say warp, bgr and no data.std_value"
        )


def write_caffe(saved: Checkpoint, folder: Path) -> list[Path]:
    """Write the files for Caffe's classification example.

    Returns:
        NAME_deploy.prototxt, NAME.caffemodel, NAME_mean.binaryproto and NAME_labels.txt: the order of its arguments.

    Raises:
        UserError: Caffe's files can't describe the network.
    """
    check_network(saved)
    net, _ = saved.build_network(torch.device("cpu"))
    deploy = _describe(saved, net)
    stem = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', deploy.name)}_iter_{saved.progress.iteration}"
    paths = [folder / f"{stem}{end}" for end in ("_deploy.prototxt", ".caffemodel", "_mean.binaryproto", "_labels.txt")]
    text, model, mean, labels = paths
    text.write_text(_comment(saved, mean.name) + text_format.MessageToString(deploy), encoding="utf-8")
    names = {layer.name for layer in deploy.layer}  # without the auxiliary classifiers of some nets
    blobs = {layer_name(module): layer_blobs(layer) for module, layer in net.named_children()}
    numbers = {name: [blob.numpy() for blob in found] for name, found in blobs.items() if found and name in names}
    write_caffemodel(model, deploy, numbers)
    picture_size = saved.progress.picture_size
    write_mean(mean, saved.means[1].expand(*picture_size, 3).flip(-1).permute(2, 0, 1).numpy())  # before the crop
    labels.write_text("".join(f"{name}\n" for name in saved.progress.classes), encoding="utf-8")
    return paths


def _describe(saved: Checkpoint, net: nn.Module) -> Any:  # noqa: ANN401 -- see message_class
    """Return the deploy net of a network."""
    model = saved.config.model
    height, width = saved.progress.input_size
    output = "Softmax" if saved.config.train.loss == "softmax" else "Sigmoid"
    if model.arch == CAFFE_GRAPH:
        return deploy_graph(read_stored(model.prototxt, "TEST"), model.title, (height, width), output)
    layers = {layer_name(module): layer for module, layer in net.named_children()}
    return deploy_net(layers.items(), model.title, (height, width), output)


def _comment(saved: Checkpoint, mean: str) -> str:
    """Return the comment for the deploy prototxt that describes the preprocessing."""
    height, width = saved.progress.picture_size
    scale = saved.config.data.phase(training=False).scale
    return (
        f"# Input: the picture resized to {width}x{height}, channels in the order B, G, R, values 0..255,\n"
        f"# minus the mean in {mean}{'' if scale == 1 else f', times {scale:g}'}; cropped at the centre.\n"
    )


@torch.no_grad()
def read_logits(folder: Path, network: TrainedNetwork, pictures: Pictures) -> torch.Tensor:
    """Return the logits that the files in `folder` give, [B, classes].

    The mean and the weights are read from the files; the layers are ours, since OpenCV 5 no longer reads Caffe's
    networks. The tests compare the logits of OpenCV 4.
    """
    saved = network.saved
    net = build_model(saved.config.model, len(saved.progress.classes), [network.input_size], seed=0).eval()
    weights = str(next(folder.glob("*.caffemodel")))
    load_weights(net, weights, lambda _line: None, saved.config.model.arch)
    mean = torch.from_numpy(read_mean(next(folder.glob("*_mean.binaryproto"))))
    top, left, (height, width) = int(pictures.crops.top[0]), int(pictures.crops.left[0]), pictures.crops.size
    mean = mean[:, top : top + height, left : left + width]
    return net((pictures.cropped.flip(1) - mean) * saved.config.data.phase(training=False).scale)
