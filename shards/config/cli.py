"""Reads the settings of `assemble` from flags and YAML files."""

import argparse
import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from shards.config.schema import AssembleConfig
from shards.errors import ConfigError


def parse_assemble_config(arguments: list[str]) -> AssembleConfig:
    """Reads the command line of `assemble`: defaults, then `--config FILE`, then flags.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, a file that can't be read.
    """
    parser = ArgumentParser(prog="python -m shards assemble", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of the keys below")
    parser.add_class_arguments(AssembleConfig, None)
    try:
        for file in _config_files(arguments):
            _check_file(file)
        namespace: Any = parser.instantiate(parser.parse_args(_set_switches(_join_lists(arguments))))
        return AssembleConfig(**{name: namespace[name] for name in _KEYS})
    except ArgumentError as error:
        raise ConfigError(one_line(str(error))) from error


_KEYS = [field.name for field in dataclasses.fields(AssembleConfig)]


_SWITCHES = {f"--{field.name}" for field in dataclasses.fields(AssembleConfig) if field.type is bool}


def _config_files(arguments: list[str]) -> list[Path]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", type=Path, default=[])
    return parser.parse_known_args(arguments)[0].config


def _check_file(file: Path) -> None:
    """Finds what jsonargparse would report without the file's name; where there is no file, that is its to say.

    Raises:
        ConfigError: the file holds no YAML mapping, or a key that isn't one.
    """
    if not file.is_file():
        return
    try:
        text = file.read_text(encoding="utf-8")
        content: object = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"--config {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {file} isn't UTF-8 text at byte {error.start}; give a YAML file") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"--config {file}{line}: {error.problem}; mend the YAML") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {file}: {str(error).splitlines()[0]}; mend the YAML") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file} must be YAML of one key: value a line, such as images: 2000")
    for key in cast("dict[object, object]", content):
        if key not in _KEYS:
            raise ConfigError(f"--config {file}: unknown key {key}{_suggestion(str(key))}")
    _check_repeats(file, text)


def _check_repeats(file: Path, text: str) -> None:
    """Finds a key that is given twice; YAML's reader would keep the last."""
    given: set[str] = set()
    for key, _ in cast("yaml.MappingNode", yaml.compose(text, yaml.SafeLoader)).value:
        if key.value in given:
            line = key.start_mark.line + 1
            raise ConfigError(f"--config {file}, line {line}: {key.value} is given a second time; keep one of them")
        given.add(key.value)


def _suggestion(name: str, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, _KEYS, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else "; --help lists them"


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


def _set_switches(arguments: list[str]) -> list[str]:
    """Lets a switch stand alone: --drop_duplicates is --drop_duplicates=true."""
    values = [*arguments[1:], ""]
    return [
        f"{argument}=true" if argument in _SWITCHES and value.lower() not in {"true", "false"} else argument
        for argument, value in zip(arguments, values, strict=False)
    ]


def one_line(message: str) -> str:
    """Folds what jsonargparse says of a flag or key into one line in plain words."""
    line = re.sub(r"\s+", " ", message).strip()
    line = re.sub(r'^Parser key "(\w+)": ', r"\1: ", line)
    line = re.sub(r"<class '(\w+)'>", r"\1", line).replace("typing.Literal", "one of ")
    line = line.replace("Expected a int", "Expected an int").replace("Expected a one of", "Expected one of")
    union = r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* Given value: (.{,80}).*"
    line = re.sub(union, r"Expected one of \1. Got value: \2", line)
    line = re.sub(r"Problem with given class_path '[\w.]+': ", "", line)
    unknown = re.match(r"unrecognized arguments: (?:--)?([^\s=]+)", line)
    if unknown:
        return line.replace("unrecognized arguments: ", "unknown flag ") + _suggestion(unknown[1], "--")
    line = line.replace("the following arguments are required: dir", "DIR, the folder of the shards, is missing")
    return re.sub(r"^the following arguments are required: (\w+)", r"--\1 is missing", line)
