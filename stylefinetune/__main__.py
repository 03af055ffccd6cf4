"""Runs the training side's command line: `stylefinetune COMMAND` is the same as `python -m stylefinetune.COMMAND`."""

import difflib
import importlib
import os
import runpy
import sys
from importlib.metadata import version
from typing import Any

from stylefinetune.errors import EXIT_CLOSED_PIPE, run_command

_COMMANDS = {
    "init": "write a commented config for your pictures",
    "train": "fine-tune a network",
    "evaluate": "test a checkpoint",
    "predict": "classify pictures",
    "features": "write the output of a layer for pictures",
    "export": "write a network for ONNX, PyTorch, safetensors, Hugging Face or Caffe",
    "report": "write an HTML page about runs",
    "check": "check the flags of a training run without starting it",
    "weights": "download published weights",
    "dashboard": "make a workspace and a report at Weights & Biases",
    "find_lr": "suggest a learning rate before a run",
    "serve": "serve a page and an API that classify pictures",
    "doctor": "check this machine: GPUs, limits, disks, services, data",
}
_USAGE = f"""usage: stylefinetune COMMAND ...

Fine-tunes image classifiers on pictures that `shards` has packed.

{chr(10).join(f"  {name:12}{text}" for name, text in _COMMANDS.items())}
  completion  print the script with which bash or zsh completes the commands

`stylefinetune COMMAND --help` lists the flags of a command.
`stylefinetune --version` prints the version."""


def main() -> int:
    """Run the command line of this process and return its exit code."""
    try:
        try:
            return _run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `stylefinetune --help | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python would report the rest of its buffer
        return EXIT_CLOSED_PIPE


def _run() -> int:
    match sys.argv[1:]:
        case ["train" | "check" | "find_lr", *flags] if {"--help", "-h"}.intersection(flags):
            # Their modules would load torch, which takes seconds.
            from stylefinetune.config.help import show_help  # noqa: PLC0415

            show_help(sys.argv[1], flags)
        case ["train" | "check", *flags] if code := run_command(_check_flags, flags):
            return code
        case [command, *rest] if command in _COMMANDS:
            sys.argv = [sys.argv[0], *rest]
            runpy.run_module(f"stylefinetune.{command}", run_name="__main__", alter_sys=True)
        case ["--help" | "-h"]:
            print(_USAGE)
        case ["--version"]:
            print(f"stylefinetune {version('stylefinetune')}")
        case ["completion", "bash" | "zsh" as shell]:
            print(_completion_script(shell))
        case ["completion", *_]:
            print("usage: stylefinetune completion bash|zsh", file=sys.stderr)
            return 2
        case [command, *_]:
            near = difflib.get_close_matches(command, _COMMANDS, n=1)
            remedy = f"did you mean {near[0]}?" if near else "stylefinetune --help lists the commands"
            print(f"error: unknown command {command}; {remedy}", file=sys.stderr)
            return 2
        case _:
            print(_USAGE, file=sys.stderr)
            return 2
    return 0


def _check_flags(flags: list[str]) -> None:
    """Check the flags of training before its modules load torch, which takes seconds.

    Flags that a Caffe solver complements are not checked.

    Raises:
        UserError: a flag is wrong.
    """
    from stylefinetune.config.cli import parse_config  # noqa: PLC0415

    if not any(flag.split("=")[0] == "--solver" for flag in flags):
        parse_config(flags)


def _completion_script(shell: str) -> str:
    # These imports load torch, which takes seconds.
    from jsonargparse import ArgumentParser  # noqa: PLC0415

    from stylefinetune.config.cli import build_parser  # noqa: PLC0415

    root = ArgumentParser(prog="stylefinetune")
    commands = root.add_subcommands()
    for name, text in _COMMANDS.items():
        parser = build_parser(name) if name in {"train", "check"} else _module_of(name).build_parser()
        commands.add_subcommand(name, parser, help=text)
    return root.get_completion_script(f"shtab-{shell}")


def _module_of(command: str) -> Any:  # noqa: ANN401 -- a module
    """Return the module that `python -m stylefinetune.COMMAND` runs: __main__ if the command is a package."""
    module = importlib.import_module(f"stylefinetune.{command}")
    return importlib.import_module(f"{module.__name__}.__main__") if hasattr(module, "__path__") else module


if __name__ == "__main__":
    sys.exit(main())
