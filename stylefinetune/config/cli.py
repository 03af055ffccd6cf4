"""Reads a Config from defaults, YAML files and command line flags, and writes it as YAML."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from yaml.composer import ComposerError

from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError

PRINT_DEEPSPEED = "--print_deepspeed_config"


def parse_config(arguments: list[str], read_solver: Callable[[Path], dict[str, Any]] | None = None) -> Config:
    """Parse a command line. Precedence: defaults < `--config FILE` < `--solver FILE` < dotted flags.

    `read_solver` converts a solver.prototxt to keys; without it, --solver has no effect.

    Raises:
        UserError: a key is unknown, a value has a wrong type or range, or a file can't be read.
    """
    parser = build_parser()
    try:
        namespace = parser.instantiate(parser.parse_args(_in_order(arguments, read_solver)))
        return Config(**{field.name: namespace[field.name] for field in dataclasses.fields(Config)})
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(_one_line(str(error), list(parser.get_defaults().keys()))) from error


def build_parser() -> ArgumentParser:
    """Return the parser of training's command line."""
    parser = ArgumentParser(
        prog="python -m stylefinetune.train",
        description="Fine-tunes a network.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of the keys below")
    parser.add_class_arguments(Config, None)
    parser.add_argument(PRINT_DEEPSPEED, action="store_true", help="print DeepSpeed's configuration and exit")
    return parser


def _in_order(arguments: list[str], read_solver: Callable[[Path], dict[str, Any]] | None) -> list[str]:
    """Return the arguments in the order config files, solver, flags; later ones override earlier ones."""
    order = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    order.add_argument("--config", action="append", default=[])
    order.add_argument("--solver")
    known, flags = order.parse_known_args(arguments)
    for file in known.config:
        _check_yaml(Path(file))
    configs = [f"--config={file}" for file in known.config]
    if known.solver is not None and read_solver is not None:
        configs.append(f"--config={json.dumps(read_solver(Path(known.solver)))}")
    return [*configs, *flags]


def _check_yaml(path: Path) -> None:
    """Check that a config file is a YAML mapping; jsonargparse's messages don't name the file."""
    try:
        with path.open(encoding="utf-8") as file:
            content: object = _UniqueKeys(file).get_single_data()
    except OSError as error:
        raise UserError(f"--config {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} isn't YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {path} has no keys; write for example `train: {{max_iter: 1000}}`")


class _UniqueKeys(yaml.SafeLoader):
    """Rejects duplicate keys; PyYAML would silently use the last of two `train:` sections."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 -- PyYAML's signature
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    problem = f"merge the two `{key.value}` sections; the second is"
                    raise ComposerError(problem=problem, problem_mark=key.start_mark)
                keys.add(key.value)
        return node


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


def _one_line(message: str, known: list[str]) -> str:
    """Join jsonargparse's message to one line; suggest the nearest key if one is unknown."""
    line = re.sub(r"\s+", " ", message).strip()
    line = re.sub(r"^Parser key \"([\w.]+)\": ", r"\1: ", line)
    line = re.sub(r"<class '(\w+)'>", r"\1", line).replace("typing.Literal", "one of ")
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", line)
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", line)
    if unknown:
        name = unknown[1]
    elif in_group:
        name = f"{in_group[1]}.{in_group[2]}"
    else:
        return line
    other_section = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    near = other_section or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown key {name}" + (f"; did you mean {near[0]}?" if near else "; --help lists the keys")
