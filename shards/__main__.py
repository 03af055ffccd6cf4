"""Runs the data side's command line: `shards COMMAND` or `python -m shards COMMAND`."""

import difflib
import importlib
import io
import os
import select
import signal
import sys

_COMMANDS = {
    "assemble": "download the pictures of a list and pack them into shards",
    "finalize": "rebuild the index and the outcomes of DIR from its blocks",
    "index": "make a DIR from existing WebDataset tars, without copying them",
    "merge": "complete a DIR that several tasks made with --partition",
    "mean": "write the mean picture of DIR's train split",
    "repack": "make shards of another format from a DIR of original pictures",
    "report": "count the outcomes of DIR's URLs, and write an HTML page",
    "verify": "compare every picture of DIR with the index and the outcomes",
}
_INTERRUPTED = 128 + signal.SIGINT
_CLOSED_PIPE = 128 + signal.SIGPIPE  # the exit code of a program that this signal ends
_USAGE = f"""usage: shards COMMAND ...

Packs pictures into shards: tar files with an index, on which `stylefinetune`
trains.

{chr(10).join(f"  {name:12}{text}" for name, text in _COMMANDS.items())}
  completion  print the script with which bash or zsh completes the commands

DIR is a folder of shards, made by assemble or index. The outcomes say what
became of each row of a list.
`shards COMMAND --help` lists the flags of a command.
`shards --version` prints the version."""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    match arguments:
        case [command, *rest] if command in _COMMANDS:
            from shards.commands import run_command  # noqa: PLC0415 -- takes a second, which --help need not wait for

            return run_command(command, rest)
        case ["--help" | "-h"]:
            print(_USAGE)
        case ["--version"]:
            from importlib.metadata import version  # noqa: PLC0415 -- Ctrl-C is not handled yet while it is imported

            print(f"shards {version('stylefinetune')}")
        case ["completion", "bash" | "zsh" as shell]:
            print(_completion_script(shell))
        case ["completion", *_]:
            print("usage: shards completion bash|zsh", file=sys.stderr)
            return 2
        case [command, *_]:
            print(f"error: unknown command {command}; {_suggestion(command)}", file=sys.stderr)
            return 2
        case _:
            print(_USAGE, file=sys.stderr)
            return 2
    return 0


def run() -> None:
    """Run the command line of this process and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a test has replaced it
            stream.reconfigure(errors="backslashreplace")  # for a terminal whose encoding lacks a character
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop_loading)
    try:
        if sys.argv[1:2] and sys.argv[1] in _COMMANDS and not {"-h", "--help"} & {*sys.argv[2:]}:
            importlib.import_module("shards.commands").load_modules(sys.argv[1])
            from shards.assembly.worker_pool import handle_interrupt  # noqa: PLC0415 -- as in main

            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # which nohup and & set
                signal.signal(signal.SIGINT, handle_interrupt)
        try:
            code = main(sys.argv[1:])
        finally:
            sys.stdout.flush()
        if code == _INTERRUPTED:
            # Python may otherwise end the process with SIGINT: if the KeyboardInterrupt arose in an import of C code.
            os._exit(code)
        sys.exit(code)
    except KeyboardInterrupt:  # before or after the command itself
        print("stopped", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # as in `shards report DIR | head`
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python would report the rest of its buffer
        sys.exit(_CLOSED_PIPE)


def _reader_has_gone() -> bool:
    """Return whether nobody reads the pipe to which stdout is connected."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _suggestion(command: str) -> str:
    near = difflib.get_close_matches(command, _COMMANDS, n=1)
    return f"did you mean {near[0]}?" if near else "shards --help lists the commands"


def _stop_loading(*_: object) -> None:
    """Exit on Ctrl-C while the imports run; a KeyboardInterrupt raised in one would print a long traceback."""
    os.write(2, b"stopped while loading; nothing was started\n")
    os._exit(_INTERRUPTED)


def _completion_script(shell: str) -> str:
    from jsonargparse import ArgumentParser  # noqa: PLC0415 -- as in main

    from shards.commands import build_parser  # noqa: PLC0415 -- as in main

    root = ArgumentParser(prog="shards")
    commands = root.add_subcommands()
    for name, text in _COMMANDS.items():
        commands.add_subcommand(name, build_parser(name), help=text)
    return root.get_completion_script(f"shtab-{shell}")


if __name__ == "__main__":
    run()
