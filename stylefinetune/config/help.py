"""The help of training and of its check: what the command does, examples, and the settings that matter most."""

import dataclasses
import sys
from typing import Any

from stylefinetune.config.cli import build_parser
from stylefinetune.config.deepspeed import flatten
from stylefinetune.config.schema import Config

_PURPOSES = {
    "train": "Fine-tunes a network on the pictures of a folder of shards. The same command continues a run that was\n"
    "interrupted.",
    "check": "Checks whether a training run can start, without starting it: flags, files, network and memory.",
}
_EXAMPLES = (
    ("Caffe's Flickr Style example", "--weights bvlc_reference_caffenet"),
    (
        "your pictures",
        "--data.shards DIR --run_dir runs/mine --model.arch resnet50 --weights DEFAULT --train.epochs 10",
    ),
    ("a recipe, with one setting changed", "--config configs/finetune/flickr_style.yaml --optim.base_lr 0.002"),
)
# Each with its value and what it does; {} is replaced by the default.
_FLAGS = {
    "config": ("FILE", "YAML file of settings, which flags override; configs/finetune has recipes"),
    "run_dir": ("DIR", "folder for the log, the metrics and the checkpoints [{}]"),
    "data.shards": ("DIR", "the pictures, made by `shards assemble` [{}]"),
    "model.arch": ("NAME", "caffenet, any classifier of torchvision, or timm/NAME [{}]"),
    "weights": ("NAME|FILE", "initial weights: DEFAULT for the best published ones, a name, or a file"),
    "train.epochs": ("N", "length of the run in passes over the pictures"),
    "train.max_iter": ("N", "length of the run in iterations, if epochs is not set [{}]"),
    "data.batch_size": ("N", "pictures of an iteration, over all ranks [{}]"),
    "optim.base_lr": ("RATE", "learning rate at the beginning [{}]"),
    "optim.lr_policy": ("NAME", "schedule of the rate, such as step, cosine or one_cycle [{}]"),
    "train.precision": ("NAME", "fp32, tf32, bf16 or fp16 [{}]"),
    "train.test_interval": ("N", "iterations between tests [{}]"),
    "checkpoint.snapshot": ("N", "iterations between checkpoints [{}]"),
    "data.workers": ("N", "decoding processes of each rank [{}]"),
    "tracking.wandb": ("MODE", "Weights & Biases: auto, offline or disabled [{}]"),
}
_WIDTH = 32  # of a flag with its value


def show_help(command: str, arguments: list[str]) -> bool:
    """Print the help of train or check if the arguments ask for it, and return whether they do.

    --help prints the settings that matter most, --help all prints all of them.
    """
    asked = next((at for at, argument in enumerate(arguments) if argument in {"-h", "--help"}), None)
    if asked is None:
        return False
    if arguments[asked + 1 : asked + 2] == ["all"]:
        build_parser(command).print_help()
    else:
        sys.stdout.write(short_help(command))
    return True


def short_help(command: str) -> str:
    """Return the help of train or check."""
    program = f"stylefinetune {command}"
    lines = [f"usage: {program} [--config FILE] [--key value ...]", "", _PURPOSES[command], "", "Examples:"]
    for purpose, flags in _EXAMPLES:
        lines += [f"  # {purpose}", f"  {program} {flags}"]
    if command == "train":
        lines += ["  # on 8 GPUs", "  torchrun --nproc_per_node 8 -m stylefinetune.train ..."]
    lines += ["", "The settings that matter most, with their defaults:"]
    defaults: dict[str, Any] = dict(flatten(dataclasses.asdict(Config())))
    for key, (value, text) in _FLAGS.items():
        lines.append(f"  {f'--{key} {value}':{_WIDTH}} {text.format(defaults.get(key))}".rstrip())
    lines += ["", f"`{program} --help all` lists all settings."]
    return "\n".join(lines) + "\n"
