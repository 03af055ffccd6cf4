"""Reads a Config from defaults, YAML files and command line flags, and writes it as YAML."""

import argparse
import dataclasses
import fnmatch
import glob
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from stylefinetune.config.command_line import HelpFormatter
from stylefinetune.config.config_file import read_config_file
from stylefinetune.config.data import require
from stylefinetune.config.deepspeed import flatten
from stylefinetune.config.keys import LIST_KEYS, REQUIRED, SECTIONS, join_repeated
from stylefinetune.config.messages import one_line, section_error
from stylefinetune.config.optim import CAFFE_SGD, OptimConfig
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError

PRINT_CONFIG = "--print_config"
PRINT_DEEPSPEED = "--print_deepspeed_config"
_LENGTHS = ("train.max_iter", "train.epochs")  # of a run; the later one counts


def parse_config(arguments: list[str], read_solver: Callable[[Path], dict[str, Any]] | None = None) -> Config:
    """Parse a command line. Precedence: defaults < `--config FILE` < `--solver FILE` < dotted flags.

    `read_solver` converts a solver.prototxt to keys; without it, --solver has no effect.

    Raises:
        UserError: a key is unknown, a value has a wrong type or range, or a file can't be read.
        SystemExit: the command line has --print_config, and the settings are printed.
    """
    parser = build_parser()
    try:
        parsed = parser.parse_args(_in_order(parser, arguments, read_solver))
        _check_values(parsed)
        namespace = parser.instantiate(parsed)
        config = Config(**{field.name: namespace[field.name] for field in dataclasses.fields(Config)})
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(one_line(str(error))) from error
    _check_finite(config)
    config = _let_default_rule_follow(config)
    if namespace[PRINT_CONFIG.lstrip("-")]:
        sys.stdout.write(dump_config(config))
        raise SystemExit
    return config


def build_parser(command: str = "train") -> ArgumentParser:
    """Return the parser of the command line of training, or of another command with the same settings."""
    parser = ArgumentParser(
        prog=f"stylefinetune {command}",
        usage="%(prog)s [--config FILE] [--key value ...]",
        description="All settings, by section. --help lists the ones that matter most, with examples.",
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,  # jsonargparse's can't write rules of layers
    )
    parser.add_argument("--config", action="config", help="YAML file of the keys below")
    parser.add_class_arguments(Config, None)
    parser.add_argument(PRINT_CONFIG, action="store_true", help="print all settings as YAML and exit")
    parser.add_argument(PRINT_DEEPSPEED, action="store_true", help="print DeepSpeed's configuration and exit")
    return parser


def _in_order(
    parser: ArgumentParser, arguments: list[str], read_solver: Callable[[Path], dict[str, Any]] | None
) -> list[str]:
    """Return the arguments in the order config files, solver, flags; later ones override earlier ones."""
    order = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    order.add_argument("--config", action="append", default=[])
    order.add_argument("--solver")
    for key in LIST_KEYS:
        order.add_argument(f"--{key}", action="extend", nargs="+")
    for key in _LENGTHS:
        order.add_argument(f"--{key}")
    known, flags = order.parse_known_args(arguments)
    given = {key: value for key, value in vars(known).items() if value is not None}
    lengths = [key for key in _LENGTHS if key in given]
    files = {f"--config {file}": read_config_file(Path(file)) for file in known.config}
    if known.solver is not None and read_solver is not None:
        files[known.solver] = read_solver(Path(known.solver))
    lists = {key: join_repeated(key, given[key]) for key in LIST_KEYS if key in given}
    flags += [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in lists.items()]
    flags += [f"--{key}={given[key]}" for key in lengths]
    in_files = [argument for where, keys in files.items() for argument in _from_file(parser, where, keys)]
    return [*in_files, *_one_length(lengths), *flags]


def _from_file(parser: ArgumentParser, where: str, keys: dict[str, Any]) -> list[str]:
    """Return the arguments that set the keys of a file, after checking their names and types."""
    for section, value in _walk_sections(keys):
        if not isinstance(value, dict):
            raise UserError(f"{where}: {section_error(section, value)}")
    argument = f"--config={json.dumps(keys, default=str)}"
    try:
        given = parser.parse_args([argument], defaults=False)
        return [*_one_length([key for key in _LENGTHS if given.get(key) is not None]), argument]
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"{where}: {one_line(str(error))}") from error


def _walk_sections(keys: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the sections of the keys with their values, which a mistake may have made something else than a mapping."""
    for name, value in keys.items():
        section = f"{prefix}{name}"
        if section in SECTIONS:
            yield section, value
            if isinstance(value, dict):
                yield from _walk_sections(value, f"{section}.")


def _one_length(given: list[str]) -> list[str]:
    """Return the argument that lets a file's or the flags' length of the run replace an earlier one.

    train.epochs replaces train.max_iter by itself.
    """
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are both set; keep one of them")
    return ["--train.epochs=null"] if given == ["train.max_iter"] else []


def _let_default_rule_follow(config: Config) -> Config:
    """Let the default of optim.layers, for the last layer fc8_flickr, apply to a last layer of any name."""
    (rule,), last_layer = OptimConfig().layers, config.model.last_layer
    is_default = config.optim.layers == (rule,) and config.optim.optimizer == CAFFE_SGD
    if not is_default or fnmatch.fnmatchcase(last_layer, rule.match):
        return config
    layers = (dataclasses.replace(rule, match=glob.escape(last_layer)),)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, layers=layers))


def _check_values(parsed: Namespace) -> None:
    """Raise ValueError for a key with nothing after its colon; jsonargparse accepts null for every type."""
    for key in REQUIRED:
        require(parsed.get(key) is not None, f"{key} has no value; give one, or remove the key")


def _check_finite(config: Config) -> None:
    for key, value in flatten(dataclasses.asdict(config)):
        numbers = value if isinstance(value, (tuple, list)) else [value]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key} is {number}; it must be a finite number")


def load_config(path: Path) -> Config:
    """Read a config.yaml that `dump_config` wrote.

    Raises:
        UserError: it can't be read or has unknown keys.
    """
    return parse_config(["--config", str(path)])


def dump_config(config: Config) -> str:
    """Return `config` as YAML; `load_config` reads it back to an equal Config."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists
    return yaml.safe_dump(plain, sort_keys=False)
