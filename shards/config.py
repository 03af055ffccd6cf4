"""Every knob of an assembly, typed, from a YAML file and flags."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

EncodeFormat = Literal["original", "pixels", "jpg"]


class ConfigError(ValueError):
    """A flag or key that the user must mend; the message is one line."""


@dataclasses.dataclass(frozen=True)
class AssembleConfig:
    """An assembly: which pictures, from where, into what.

    Attributes:
        list: CSV, CSV.gz, Parquet or JSON lines, as a path or http(s) URL; or flickr_style, the official list; or
            Caffe list files of local paths, --list train=train.txt --list test=test.txt.
        out: folder of the shards.
        images: how many rows to take of the list's permutation; -1 is all.
        seed: of that permutation, and of the split where the list has none. The default is Caffe's.
        labels: take only rows whose label is below this.
        classes: file with a class name a line, in label order; or flickr_style, the 20 official names.
        test_share: share of a list without a split column that goes to the test split.
        workers: processes that decode and pack; -x is all cores but x.
        connections: downloads at once.
        per_host: downloads at once from one host.
        timeout: seconds without an answer, or without a byte, after which an attempt has failed.
        deadline: seconds that one attempt may take in all.
        attempts: how often a URL is asked for that fails for a passing reason.
        max_bytes: a longer body is refused.
        proxy: for the pictures, in place of http_proxy and https_proxy of the environment.
        contact: address or URL that the User-Agent names, for hosts that wonder who asks.
        encode_format: original keeps the bytes as they came, pixels stores them decoded and resized (uint8 RGB),
            jpg stores a resized JPEG.
        image_size: side in pixels of resized pictures.
        rows_per_shard: rows of the list in one tar; fixed once DIR exists.
    """

    list: str | list[str]
    out: Path
    images: int = -1
    seed: int = 831486
    labels: int | None = None
    classes: str | None = None
    test_share: float = 0.2
    workers: int = -1
    connections: int = 64
    per_host: int = 16
    timeout: int = 10
    deadline: int = 60
    attempts: int = 4
    max_bytes: int = 32 * 2**20
    proxy: str | None = None
    contact: str | None = None
    encode_format: EncodeFormat = "original"
    image_size: int = 256
    rows_per_shard: int = 1000

    def __post_init__(self) -> None:
        positive = ["connections", "per_host", "timeout", "deadline", "attempts", "max_bytes", "rows_per_shard"]
        for name in [*positive, "image_size"]:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.labels is not None and self.labels < 1:
            raise ConfigError(f"labels is {self.labels}; it must be at least 1, or left out for all")
        if not 0 <= self.test_share < 1:
            raise ConfigError(f"test_share is {self.test_share}; it must be at least 0 and below 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must be at least 0 and below 2**32")
        if self.workers == 0:
            raise ConfigError("workers is 0; it must be a number of processes, or -x for all cores but x")
        for name in ("proxy", "contact"):  # they become lines of aria2's configuration
            if not (getattr(self, name) or "").isprintable():
                raise ConfigError(f"{name} holds a character that can't be printed")

    @property
    def worker_count(self) -> int:
        """Returns how many processes decode and pack, -x resolved."""
        return self.workers if self.workers > 0 else max(1, (os.cpu_count() or 1) + self.workers)

    @property
    def lists(self) -> Sequence[str]:
        """Returns what --list named, however often it was given."""
        return [self.list] if isinstance(self.list, str) else self.list


def parse(arguments: list[str]) -> AssembleConfig:
    """Reads the command line of `assemble`: defaults, then `--config FILE`, then flags.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, a file that can't be read.
    """
    parser = ArgumentParser(prog="python -m shards assemble", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of the keys below")
    parser.add_class_arguments(AssembleConfig, None)
    try:
        namespace: Any = parser.instantiate(parser.parse_args(_join_lists(arguments)))
        return AssembleConfig(**{field.name: namespace[field.name] for field in dataclasses.fields(AssembleConfig)})
    except ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from error


def _join_lists(arguments: list[str]) -> list[str]:
    """Turns --list A --list B into one --list [A, B]; jsonargparse would keep the last alone."""
    values: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name != "--list":
            others.append(argument)
        elif equals:
            values.append(value)
        else:
            values += [value for value in [next(rest, None)] if value is not None]
    if len(values) < 2:
        return arguments
    return [*others, "--list=" + repr(values)]


def _one_line(message: str) -> str:
    line = re.sub(r"\s+", " ", message).strip()
    line = re.sub(r'^Parser key "(\w+)": ', r"\1: ", line)
    line = re.sub(r"<class '(\w+)'>", r"\1", line).replace("typing.Literal", "one of ")
    line = re.sub(r"^unrecognized arguments: (.*)", r"unknown flag \1; --help lists them", line)
    line = re.sub(r"^Option '(\w+)' is not accepted", r"unknown key \1; --help lists them", line)
    return re.sub(r"^the following arguments are required: (\w+)", r"--\1 is missing", line)
