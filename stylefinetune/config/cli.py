"""Reads a Config from defaults, a YAML file and dotted flags, in that order, and writes it back as YAML."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from yaml.composer import ComposerError

from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError

SHOW_DEEPSPEED = "--print_deepspeed_config"


def parse_config(arguments: list[str], read_solver: Callable[[Path], dict[str, Any]] | None = None) -> Config:
    """Reads a command line: defaults, then `--config FILE`, then `--solver FILE`, then dotted flags.

    Args:
        arguments: the command line.
        read_solver: turns a solver.prototxt into keys; without it, --solver is a key like any other.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range, a file that can't be read.
    """
    parser = ArgumentParser(
        prog="python -m stylefinetune.train",
        description=(Config.__doc__ or "").splitlines()[0],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of the keys below")
    parser.add_class_arguments(Config, None)
    parser.add_argument(SHOW_DEEPSPEED, action="store_true", help="print what DeepSpeed would be told, and leave")
    try:
        return _build(parser.instantiate(parser.parse_args(_in_order(arguments, read_solver))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(_one_line(str(error), _keys(Config()))) from error


def _in_order(arguments: list[str], read_solver: Callable[[Path], dict[str, Any]] | None) -> list[str]:
    """Puts the config files first, what the solver says next and the flags last; later arguments win."""
    order = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    order.add_argument("--config", action="append", default=[])
    order.add_argument("--solver")
    known, flags = order.parse_known_args(arguments)
    for file in known.config:
        _check_yaml(Path(file))
    configs = [f"--config={file}" for file in known.config]
    if known.solver is None:
        return [*configs, *flags]
    if read_solver is None:
        return [*configs, f"--solver={known.solver}", *flags]
    return [*configs, f"--config={json.dumps(read_solver(Path(known.solver)))}", *flags]


def _check_yaml(path: Path) -> None:
    """Sees that a config file is YAML of keys and values; jsonargparse's own words don't name the file."""
    try:
        with path.open(encoding="utf-8") as file:
            content: object = _UniqueKeys(file).get_single_data()
    except OSError as error:
        raise UserError(f"--config {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} isn't YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {path} holds no keys; write such as `train: {{max_iter: 1000}}`")


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice: of two `train:` sections PyYAML keeps the last alone."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 -- as PyYAML has it
        node = super().compose_mapping_node(anchor)
        given: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                problem = f"make the two `{key.value}` one; the second stands"
                raise ComposerError(problem=problem, problem_mark=key.start_mark)
            given.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


def load_config(path: Path) -> Config:
    """Reads a config.yaml that `dump` wrote.

    Raises:
        UserError: it can't be read, or names keys that this release doesn't know.
    """
    return parse_config(["--config", str(path)])


def dump_config(config: Config) -> str:
    """Returns `config` as YAML that `load` reads back to an equal Config."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _build(namespace: Any) -> Config:  # noqa: ANN401 -- jsonargparse's namespace is untyped
    return Config(**{field.name: namespace[field.name] for field in dataclasses.fields(Config)})


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in cast("tuple[object, ...]", value)]
    return value


def _keys(value: object, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in dataclasses.fields(cast("Any", value)):
        item = getattr(value, field.name)
        found += _keys(item, f"{prefix}{field.name}.") if dataclasses.is_dataclass(item) else [prefix + field.name]
    return found


def _one_line(message: str, known: list[str]) -> str:
    """Folds jsonargparse's paragraphs into one line, and names the nearest key where one is unknown."""
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
    elsewhere = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]  # in another section
    near = elsewhere or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown key {name}" + (f"; did you mean {near[0]}?" if near else "; --help lists the keys")
