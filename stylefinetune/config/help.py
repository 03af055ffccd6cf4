"""The help of train, check and find_lr: what the command does, examples, and the settings that matter most."""

import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from stylefinetune.config.cli import build_parser
from stylefinetune.config.deepspeed import flatten
from stylefinetune.config.schema import Config

_PURPOSES = {
    "train": "Fine-tunes a network on the pictures of a folder of shards. The same command continues a run that was "
    "interrupted.",
    "check": "Checks whether a training run can start, without starting it: flags, files, network and memory.",
    "find_lr": "Tries learning rates from low to high before a run, and suggests one. It takes the flags of the run.",
}
_EXAMPLES = (
    (
        "your pictures, which `shards assemble` has packed into data/mine",
        "--data.shards data/mine --run_dir runs/mine --model.arch resnet50 --weights DEFAULT --train.epochs 10",
    ),
    (
        "a recipe for them, with one setting changed",
        "--config configs/finetune/vit_b_16.yaml --data.shards data/mine --run_dir runs/vit --train.epochs 10",
    ),
    (
        "Caffe's Flickr Style example",
        "--config configs/finetune/flickr_style.yaml --weights bvlc_reference_caffenet",
    ),
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
_OWN_FLAGS = {
    "find_lr": {
        "low": ("RATE", "lowest learning rate [1e-06]"),
        "high": ("RATE", "highest learning rate [10]"),
        "iterations": ("N", "number of rates [100]"),
        "out": ("FILE", "PNG of the losses to write [find_lr.png in run_dir]"),
    }
}
_WIDTH = 26  # of a flag with its value


def show_help(command: str, arguments: list[str]) -> bool:
    """Print the help of train, check or find_lr if the arguments ask for it, and return whether they do.

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
    """Return the help of train, check or find_lr, as wide as the terminal."""
    program = f"stylefinetune {command}"
    width = max(shutil.get_terminal_size().columns, 80) - 1
    own = [f"[--{name} {value}]" for name, (value, _) in _OWN_FLAGS.get(command, {}).items()]
    lines = [" ".join([f"usage: {program}", *own, "[--config FILE] [--key value ...]"])]
    lines += ["", *textwrap.wrap(_PURPOSES[command], width), "", "Examples:"]
    for purpose, flags in _EXAMPLES:
        lines += [f"  # {purpose}", f"  {program} {flags}"]
    if command == "train":
        lines += ["  # on 8 GPUs", "  torchrun --nproc_per_node 8 -m stylefinetune.train ..."]
    if command in _OWN_FLAGS:
        lines += ["", "The flags of this command, with their defaults:", *_describe(_OWN_FLAGS[command], width)]
    lines += ["", "The settings that matter most, with their defaults:", *_describe(_FLAGS, width)]
    lines += ["", f"A rank is a training process. `{program} --help all` lists all settings."]
    return "\n".join(lines) + "\n"


def _describe(flags: Mapping[str, tuple[str, str]], width: int) -> Iterator[str]:
    """Yield the lines of flags, each with what it does."""
    defaults: dict[str, Any] = dict(flatten(dataclasses.asdict(Config())))
    for key, (value, text) in flags.items():
        start = f"  {f'--{key} {value}':{_WIDTH}} "
        yield from textwrap.wrap(
            text.format(defaults.get(key)), width, initial_indent=start, subsequent_indent=" " * len(start)
        )
