"""python -m shards assemble | finalize | mean: each says what it takes with --help."""

import os
import shlex
import signal
import sys
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:

    def _stop_loading(*_: object) -> None:
        """Ends on Ctrl-C during the imports below, which take a second; raised inside one, it would show them all."""
        os.write(2, b"stopped while loading; nothing was begun\n")
        os._exit(130)

    signal.signal(signal.SIGINT, _stop_loading)

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from shards import blocks, config, locks, mean
from shards.assemble import assemble
from shards.finalize import finalize
from shards.index import ShardsError

_USAGE = """usage: python -m shards COMMAND ...

  assemble   download a list's pictures and pack them into shards
  finalize   join the parts of DIR's blocks into its index again
  mean       write the mean picture of DIR's train split

python -m shards COMMAND --help says more."""


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        wants_help = arguments[:1] in (["--help"], ["-h"])
        print(_USAGE, file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and & have it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command(arguments[1:])
    except (ShardsError, config.ConfigError, ArgumentError, OSError) as error:
        print("error: " + config.one_line(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from here: python -m shards {shlex.join(arguments)}", file=sys.stderr)
        return 130
    return 0


def _assemble(arguments: list[str]) -> None:
    assemble(config.parse(arguments), Console(soft_wrap=True))


def _finalize(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m shards finalize", exit_on_error=False)
    parser.add_argument("dir", type=Path, help="folder of the shards")
    root: Path = parser.parse_args(arguments).dir
    shard_dir = blocks.load(root)
    with locks.exclusive(root) as work:
        ledger = finalize(shard_dir, work)
    print(f"{root}: {len(ledger)} of {len(shard_dir.rows)} rows are in committed blocks; the index has what was kept")


def _mean(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m shards mean", exit_on_error=False)
    parser.add_argument("dir", type=Path, help="folder of the shards")
    parser.add_argument("--image_size", type=int, help="side in pixels; that of the shards, or 256, unless given")
    options = parser.parse_args(arguments)
    path, count = mean.write_mean(options.dir, options.image_size)
    print(f"{path}: the mean of {count} pictures")


_COMMANDS = {"assemble": _assemble, "finalize": _finalize, "mean": _mean}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
