"""Classifies pictures: `python -m stylefinetune.predict PICTURE... --checkpoint RUN`."""

import sys
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser

from shards.format.images import (
    OPENCV_LIMITS,
    BadPicture,
    Pixels,
    decode_picture,
    detect_format,
    inspect_picture,
    resize_picture,
)
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.data.augmentation.fit import build_fit
from stylefinetune.data.picture_reader import Fit
from stylefinetune.data.transforms import Crops
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command
from stylefinetune.losses.loss import to_probabilities
from stylefinetune.training.evaluation import exit_if_lost


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "predict",
        "Classifies pictures.",
        ["photo.jpg --checkpoint runs/mine", "*.jpg --checkpoint runs/mine:best --top 3"],
    )
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="any format that OpenCV reads")
    parser.add_argument("--checkpoint", type=Path, required=True, help="RUN, RUN:best, RUN:ITERATION or a folder")
    parser.add_argument("--top", type=int, default=5, help="number of classes to print")
    add_ema_option(parser)
    return parser


def predict(arguments: list[str]) -> None:
    """Print the most probable classes of each picture, in the format of Caffe's classification example."""
    options = parse_command(build_parser(), arguments)
    if options.top < 1:
        raise UserError(f"--top is {options.top}; it must be at least 1")
    saved = read_checkpoint(options.checkpoint).with_weights(ema=options.ema)
    height, width = saved.progress.picture_size
    fit = build_fit(saved.config.data.phase(training=False), saved.progress.seed)
    crop_height, crop_width = saved.progress.input_size
    crops = Crops(
        top=torch.tensor([(height - crop_height) // 2]),
        left=torch.tensor([(width - crop_width) // 2]),
        mirror=torch.tensor([False]),
        size=(crop_height, crop_width),
    )
    world = World.alone(stall_seconds=saved.config.train.stall_seconds)
    net, transform = saved.build_network(world.device)
    for path in options.pictures:
        with exit_if_lost(world), torch.no_grad():
            world.set_activity(f"reading {path}", saved.progress.iteration)
            logits = net(transform(_fit(_read(path), height, width, fit), crops))
        of_classes = to_probabilities(logits, saved.config.train.loss)[0]
        probabilities, labels = of_classes.topk(min(options.top, len(of_classes)))
        print(f"---------- Prediction for {path} ----------")
        for probability, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
            print(f'{probability:.4f} - "{saved.progress.classes[label]}"')


def _read(path: Path) -> Pixels:
    try:
        body = path.read_bytes()
        # inspect_picture names the cause of a damaged header, and reads only the formats of the web.
        return inspect_picture(body, OPENCV_LIMITS) if detect_format(body) else decode_picture(body)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except BadPicture as error:
        raise UserError(f"{path} is not a picture: {error}") from error


def _fit(pixels: Pixels, height: int, width: int, fit: Fit | None) -> torch.Tensor:
    """Return a picture as uint8 [1, height, width, 3], RGB."""
    if fit is None:
        return torch.from_numpy(resize_picture(pixels, height, width))[None]
    fitted = np.empty((height, width, 3), np.uint8)
    fit(pixels, 0, fitted)
    return torch.from_numpy(fitted)[None]


if __name__ == "__main__":
    sys.exit(run_command(predict, sys.argv[1:]))
