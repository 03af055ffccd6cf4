"""Parses the flags of the commands other than training; a mistake is one line."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from stylefinetune.errors import UserError

_NO_DEFAULTS = (None, "", [], (), {}, argparse.SUPPRESS)  # that say nothing


class HelpFormatter(DefaultHelpFormatter):
    """Keeps the lines of the examples, shows defaults as they are typed, and neither types nor empty defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in text.split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        is_shown = action.nargs != 0 and action.option_strings and action.default not in _NO_DEFAULTS
        if not is_shown or "default:" in text:
            return text
        is_json = isinstance(action.default, bool | tuple)
        default = json.dumps(action.default, default=dataclasses.asdict) if is_json else "%(default)s"
        return f"{text} (default: {default})"


def command_parser(command: str, description: str, examples: Sequence[str]) -> ArgumentParser:
    """Return the parser of `stylefinetune COMMAND`, without arguments yet.

    Its help begins with the description and the examples, which are command lines without the program.
    """
    program = f"stylefinetune {command}"
    lines = [description, "", "Examples:", *(f"  {program} {example}".rstrip() for example in examples)]
    return ArgumentParser(
        prog=program,
        description="\n".join(lines),
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_ema_option(parser: ArgumentParser) -> None:
    """Add --ema, which chooses between the weights of a checkpoint and their average."""
    parser.add_argument(
        "--ema", type=bool, default=True, help="use the average of the weights if the run has one, see train.ema_decay"
    )


def parse_command(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse the command line of a command.

    Raises:
        UserError: a flag is unknown, an argument is missing, or a value has a wrong type.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UserError(_one_line(str(error), parser.format_usage())) from error


def _one_line(message: str, usage: str) -> str:
    line = re.sub(r"\s+", " ", message).strip()
    line = re.sub(r"^Parser key \"([\w.]+)\": ", r"--\1: ", line)
    line = re.sub(r"<class '(\w+)'>", r"\1", line).replace("Expected a int", "Expected an int")
    flags = re.findall(r"--\w+", usage)
    missing = re.match(r"the following arguments are required: (.*)", line)
    if missing:
        names = [f"--{name}" if f"--{name}" in flags else name.upper() for name in missing[1].split(", ")]
        return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} required"
    unknown = re.match(r"unrecognized arguments: ([^\s=]+)", line)
    if unknown:
        near = difflib.get_close_matches("--" + unknown[1].lstrip("-").replace("-", "_"), flags, n=1)
        return f"unknown argument {unknown[1]}; " + (f"did you mean {near[0]}?" if near else "--help lists the flags")
    return line
