"""Reads the settings of `assemble` from flags and YAML files."""

import argparse
import dataclasses
import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from shards.config.schema import AssembleConfig
from shards.errors import ConfigError, first_line

_KEYS = [field.name for field in dataclasses.fields(AssembleConfig)]
# Names of the settings in other programs, such as img2dataset.
_ALIASES = {
    "list": "url_list input input_file csv urls",
    "out": "output output_folder output_dir out_dir outdir dir",
    "workers": "processes_count num_workers processes j",
    "connections": "thread_count threads concurrency",
    "rows_per_shard": "number_sample_per_shard shard_size",
    "images": "max_images limit number count n",
    "encode_format": "output_format format",
    "image_size": "size resize img_size",
    "attempts": "retries",
    "label_col": "caption_col",
    "drop_duplicates": "dedup deduplicate",
    "wandb": "enable_wandb use_wandb",
}
_MEANT = {alias: key for key, aliases in _ALIASES.items() for alias in aliases.split() if key in _KEYS}
_POSITIONAL = {"dir": "DIR, the folder of the shards,", "tars": "TAR, one of the tars to index,"}
_SWITCHES = {f"--{field.name}" for field in dataclasses.fields(AssembleConfig) if field.type is bool}


def parse_assemble_config(arguments: list[str]) -> AssembleConfig:
    """Parse the command line of `assemble`: defaults, then `--config FILE`, then flags.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or a file that can't be read.
    """
    parser = build_parser()
    try:
        for file in _split_off("--config", arguments)[0]:
            _check_file(Path(file))
        namespace: Any = parser.instantiate(parser.parse_args(_set_switches(_join_lists(arguments))))
        return AssembleConfig(**{name: namespace[name] for name in _KEYS})
    except ArgumentError as error:
        raise ConfigError(one_line(str(error))) from error


def check_assemble_config(settings: dict[str, Any]) -> AssembleConfig:
    """Return the config of settings that are given in Python.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
        TypeError: there is no such setting.
    """
    if unknown := settings.keys() - set(_KEYS):
        name = min(unknown)
        raise TypeError(f"assemble has no setting {name}{_suggestion(name, '')}")
    parser = build_parser()
    try:
        namespace: Any = parser.instantiate(parser.parse_object(settings))
    except ArgumentError as error:
        raise ConfigError(one_line(str(error))) from error
    return AssembleConfig(**{name: namespace[name] for name in _KEYS})


class _HelpFormatter(DefaultHelpFormatter):
    """Shows defaults as they are typed, and neither types nor empty defaults."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        is_shown = action.nargs != 0 and action.option_strings and action.default not in (None, (), argparse.SUPPRESS)
        if not is_shown or "default: " in text:
            return text
        default = json.dumps(action.default) if isinstance(action.default, bool | tuple) else "%(default)s"
        return f"{text} (default: {default})"


def command_parser(command: str, description: str, example: str) -> ArgumentParser:
    """Return the parser of `shards COMMAND`, without arguments yet; the example is its arguments."""
    return ArgumentParser(
        prog=f"shards {command}",
        description=description,
        epilog=f"Example: shards {command} {example}",
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def build_parser() -> ArgumentParser:
    """Return the parser of `assemble`."""
    parser = command_parser(
        "assemble",
        "Downloads the pictures of a list, checks them and packs them into shards: tar files with an index. "
        "The same command continues after a stop.",
        "--list mine.csv --out data/mine",
    )
    parser.add_argument("--config", action="config", help="YAML file of the keys below")
    parser.add_class_arguments(AssembleConfig, None)
    return parser


def one_line(message: str) -> str:
    """Shorten an error message of jsonargparse to one line in plain words."""
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
    missing = re.match(r"the following arguments are required: (.*)", line)
    return _required(missing[1].split(", ")) if missing else line


def _required(names: list[str]) -> str:
    """Return the line for missing arguments."""
    shown = [_POSITIONAL.get(name, f"--{name}") for name in names]
    return f"{' and '.join(shown)} {'are' if len(shown) > 1 else 'is'} required"


def _split_off(flag: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of a flag, which may be repeated, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag, action="append", default=[], dest="values")
    namespace, others = parser.parse_known_args(arguments)
    return namespace.values, others


def _check_file(file: Path) -> None:
    """Check a YAML file and its keys, since jsonargparse's messages would not name the file; it reports a missing one.

    Raises:
        ConfigError: the file can't be read, is no YAML mapping, or has an unknown or repeated key.
    """
    if not file.is_file():
        return
    try:
        content = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"--config {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {file} isn't UTF-8 text at byte {error.start}; give a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"--config {file}{line}: {problem}; fix the YAML") from error
    if not isinstance(content, yaml.MappingNode):
        raise ConfigError(f"--config {file} must be YAML with one key: value per line, for example images: 2000")
    given: set[str] = set()
    for key, _ in content.value:
        if key.value not in _KEYS:
            raise ConfigError(f"--config {file}: unknown key {key.value}{_suggestion(str(key.value))}")
        if key.value in given:  # YAML would take the last one
            line = key.start_mark.line + 1
            raise ConfigError(f"--config {file}, line {line}: {key.value} is given twice; remove one of them")
        given.add(key.value)


def _suggestion(name: str, prefix: str = "") -> str:
    name = name.replace("-", "_")
    near = [_MEANT[name]] if name in _MEANT else difflib.get_close_matches(name, _KEYS, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else "; --help lists them"


def _join_lists(arguments: list[str]) -> list[str]:
    """Replace --list A --list B by --list ["A", "B"]; jsonargparse would take only the last."""
    lists, others = _split_off("--list", arguments)
    return [*others, f"--list={json.dumps(lists)}"] if len(lists) > 1 else arguments


def _set_switches(arguments: list[str]) -> list[str]:
    """Give switches without a value the value true: --drop_duplicates becomes --drop_duplicates=true."""
    values = [*arguments[1:], ""]
    return [
        f"{argument}=true" if argument in _SWITCHES and value.lower() not in {"true", "false"} else argument
        for argument, value in zip(arguments, values, strict=False)
    ]
