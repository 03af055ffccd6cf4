"""Reads a network from Caffe's files, a .caffemodel and its deploy prototxt, as if it were a checkpoint."""

import dataclasses
from pathlib import Path

import torch

from shards.format import counted
from shards.format.text import decode_lines, find_file
from stylefinetune.caffe.deploy_input import Deploy, read_deploy
from stylefinetune.caffe.pretrained import locate_published
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.config.data import DataConfig
from stylefinetune.config.preprocessing import CAFFE
from stylefinetune.config.schema import Config, ModelConfig
from stylefinetune.config.train import TrainConfig
from stylefinetune.data.mean import load_mean, read_mean_picture
from stylefinetune.errors import UserError, joined_sizes
from stylefinetune.models.build import build_model
from stylefinetune.models.layer_names import split_parameter
from stylefinetune.models.state import stored_tensors
from stylefinetune.models.weights import load_weights


@dataclasses.dataclass(frozen=True)
class CaffeFiles:
    """The files of a network, and what they don't say."""

    weights: Path  # .caffemodel, or the name of published weights
    deploy: Path  # prototxt
    mean: str | None  # mean picture, .binaryproto or .npy, or imagenet_mean
    mean_value: tuple[float, ...]  # or mean values, in the order B, G, R
    class_names: Path | None  # a text file with a class on each line
    image_size: int | None  # side in pixels to which pictures are resized; by default that of the mean, or 256
    scale: float = 1.0  # factor after the mean is subtracted


def read_caffe_network(files: CaffeFiles) -> Checkpoint:
    """Return the network as a checkpoint of iteration 0, without an optimizer.

    Raises:
        UserError: a file can't be read, the files don't match, or the network has an unsupported layer.
    """
    deploy = read_deploy(files.deploy)
    size = _picture_size(files, deploy)
    data = _data_config(files, deploy, size)
    mean = load_mean(data, data.phase(training=False), size)
    try:
        model = ModelConfig(**deploy.model)
    except ValueError as error:
        raise UserError(f"{files.deploy}: {error}") from error
    return Checkpoint(
        path=files.weights,
        progress=Progress(
            iteration=0,
            losses=[],
            tests=[],
            seed=0,
            classes=_class_names(files, deploy.num_classes),
            index="",
            picture_size=list(size),
            input_size=list(deploy.input_size),
        ),
        config=Config(data=data, model=model, train=TrainConfig(loss=deploy.loss)),
        tensors=_read_tensors(files, deploy, model),
        slots={},
        scalars={},
        means=(mean, mean),
    )


def _picture_size(files: CaffeFiles, deploy: Deploy) -> tuple[int, int]:
    """Return the (height, width) to which pictures are resized."""
    if files.mean and files.mean_value:
        raise UserError("--mean and --mean_value are both set; give one of them")
    if files.mean and files.image_size is None:
        path = locate_published(files.mean)
        if not path.is_file():
            raise UserError(f"--mean {path}: no such file")
        height, width, _ = read_mean_picture(path).shape
        return height, width
    if files.image_size is None and deploy.input_size[0] != deploy.input_size[1]:
        return deploy.input_size
    side = files.image_size or max(CAFFE.image_size, *deploy.input_size)
    return side, side


def _data_config(files: CaffeFiles, deploy: Deploy, size: tuple[int, int]) -> DataConfig:
    """Return the section `data`: Caffe's preprocessing."""
    height, width = deploy.input_size
    if (height != width and size != deploy.input_size) or height > size[0] or width > size[1]:
        names = [joined_sizes(each) for each in (deploy.input_size, size)]
        raise UserError(
            f"{files.deploy}: the input of {names[0]} pixels can't be cut from pictures of {names[1]}, the size of the "
            "mean; give another --mean, or --mean_value and --image_size"
        )
    if not files.mean and not files.mean_value:
        raise UserError(
            f"{files.weights} needs what is subtracted from a picture: --mean FILE, or --mean_value 104,117,123; "
            "--mean_value 0 subtracts nothing"
        )
    try:
        return DataConfig(
            shards="",
            resize=CAFFE.resize,
            interpolation=CAFFE.interpolation,
            channels=CAFFE.channels,
            image_size=size,
            crop_size=height if height == width else 0,
            mean_file=files.mean or "",
            mean_value=files.mean_value,
            scale=files.scale,
        )
    except ValueError as error:
        raise UserError(str(error).replace("data.", "--")) from error


def _class_names(files: CaffeFiles, count: int) -> list[str]:
    """Return the names in label order; the numbers if there is no file."""
    if files.class_names is None:
        return list(map(str, range(count)))
    try:
        lines = decode_lines(find_file(str(files.class_names)).read_bytes())
    except OSError as error:
        raise UserError(f"--class_names {files.class_names} can't be read: {error.strerror}") from error
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != count:
        raise UserError(
            f"--class_names {files.class_names} has {counted(len(names), 'class')}, and the network {count}"
        )
    return names


def _read_tensors(files: CaffeFiles, deploy: Deploy, model: ModelConfig) -> dict[str, torch.Tensor]:
    net = build_model(model, deploy.num_classes, [deploy.input_size], seed=0)
    copied = load_weights(net, str(files.weights), log=lambda _: None, arch=model.arch).copied
    missing = next((name for name, _ in net.named_parameters() if split_parameter(name)[0] not in copied), None)
    if missing:
        raise UserError(f"{files.weights} lacks the layer {split_parameter(missing)[0]} of {files.deploy}")
    return {name: tensor.detach() for name, tensor in stored_tensors(net).items()}
