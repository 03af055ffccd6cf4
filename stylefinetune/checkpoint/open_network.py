"""Opens the network that a command names: a checkpoint, or a .caffemodel with its deploy prototxt."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stylefinetune.caffe.pretrained import PUBLISHED
from stylefinetune.checkpoint.caffe_network import CaffeFiles, read_caffe_network
from stylefinetune.checkpoint.checkpoint import Checkpoint, read_checkpoint
from stylefinetune.errors import UserError
from stylefinetune.models.weight_files import CAFFEMODEL

_CAFFE_OPTIONS = ("deploy", "mean", "mean_value", "class_names", "image_size", "scale")


def add_network_options(parser: ArgumentParser, name: str, *, required: bool = False) -> None:
    """Add the argument `name` of the network, and a group of flags that a .caffemodel needs."""
    arguments = {"required": True} if required else {}
    parser.add_argument(
        name,
        type=Path,
        metavar="CHECKPOINT",
        help="folder of a run (RUN), RUN:best, RUN:ITERATION, a checkpoint's folder, or a .caffemodel",
        **arguments,
    )
    group = parser.add_argument_group("options for a .caffemodel only")
    group.add_argument("--deploy", type=Path, help="its deploy prototxt")
    group.add_argument("--mean", help="its mean picture, .binaryproto or .npy, or imagenet_mean")
    group.add_argument("--mean_value", help="mean values B,G,R, or one for all, instead of --mean")
    group.add_argument("--class_names", type=Path, help="text file with a class on each line")
    group.add_argument("--image_size", type=int, help="side to which pictures are resized")
    group.add_argument("--scale", type=float, help="factor after the mean is subtracted (default: 1)")


def open_network(options: Namespace, path: Path) -> Checkpoint:
    """Return the network at `path`, with the flags of `add_network_options`.

    Raises:
        UserError: it can't be read, or a flag is missing or superfluous.
    """
    if path.suffix != CAFFEMODEL and (str(path) not in PUBLISHED or path.exists()):
        given = next((name for name in _CAFFE_OPTIONS if options[name] is not None), None)
        if given:
            raise UserError(f"--{given} belongs to a .caffemodel; {path} is a checkpoint, which has its own settings")
        return read_checkpoint(path)
    if options.deploy is None:
        raise UserError(f"{path} needs its deploy prototxt: --deploy FILE")
    values = _parse_values(options.mean_value) if options.mean_value else ()
    scale = 1.0 if options.scale is None else options.scale
    return read_caffe_network(
        CaffeFiles(path, options.deploy, options.mean, values, options.class_names, options.image_size, scale)
    )


def _parse_values(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in text.strip("[]").split(","))
    except ValueError as error:
        raise UserError(f"--mean_value is {text}; give one for each channel, such as 104,117,123") from error
