"""python -m shards assemble | finalize | merge | mean | repack | verify: each says what it takes with --help."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:

    def _stop_loading(*_: object) -> None:
        """Ends on Ctrl-C during the imports below, which take a second; raised inside one, it would show them all."""
        os.write(2, b"stopped while loading; nothing was begun\n")
        os._exit(130)

    signal.signal(signal.SIGINT, _stop_loading)

import pyarrow as pa
from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from shards.assembly.assemble import assemble
from shards.assembly.finalize import finalize
from shards.assembly.mean import write_mean
from shards.assembly.partition import merge_partitions
from shards.assembly.repack import RepackConfig, repack
from shards.assembly.worker_pool import handle_interrupt
from shards.config.cli import one_line, parse_assemble_config
from shards.errors import ConfigError, ShardsError
from shards.location import url_of
from shards.report.html import write_page
from shards.report.report import read_report
from shards.report.tables import print_tables
from shards.storage.session import reopen_session
from shards.storage.snapshot import open_snapshot
from shards.verify.verify import verify

_USAGE = """usage: python -m shards COMMAND ...

  assemble   download a list's pictures and pack them into shards
  finalize   join the parts of DIR's blocks into its index again
  merge      join what the tasks of assemble --partition i/n made, if nothing is missing
  mean       write the mean picture of DIR's train split
  repack     make shards of another form from a DIR of originals, without the network
  report     print what became of DIR's list, and write it as a page with charts and pictures
  verify     read all of DIR again: does it hold what its index and its ledger say?

python -m shards COMMAND --help says more."""

_SHOWN = 20  # differences
_STAGE = "local folder to work in, for a URL; a cache folder unless given"


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        wants_help = arguments[:1] in (["--help"], ["-h"])
        print(_USAGE, file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps for itself what a long list took for a moment
    try:
        return command(arguments[1:]) or 0
    except (ShardsError, ConfigError, ArgumentError, OSError) as error:
        print("error: " + one_line(str(error)), file=sys.stderr)
        return 2
    except MemoryError as error:
        said = f" ({one_line(str(error))})" if str(error) else ""
        print(f"error: out of memory{said}; give it more, or less to do at once: fewer --workers", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from here: python -m shards {shlex.join(arguments)}", file=sys.stderr)
        return 130


def _assemble(arguments: list[str]) -> None:
    assemble(parse_assemble_config(arguments), Console(soft_wrap=True))


def _parser(command: str) -> ArgumentParser:
    return ArgumentParser(prog=f"python -m shards {command}", exit_on_error=False, allow_abbrev=False)


def _finalize(arguments: list[str]) -> None:
    parser = _parser("finalize")
    parser.add_argument("dir", type=Path, help="folder of the shards, or their URL")
    parser.add_argument("--stage", type=Path, help=_STAGE)
    options = parser.parse_args(arguments)
    with reopen_session(options.dir, options.stage) as (shard_dir, place):
        counts = finalize(shard_dir, place.work, place.storage)
    count = f"{counts.total()} of {len(shard_dir.rows)} rows"
    print(f"{place.name}: {count} are in committed blocks; the index has what was kept")


def _merge(arguments: list[str]) -> int:
    parser = _parser("merge")
    parser.add_argument("dir", type=Path, help="folder of the shards, or their URL")
    parser.add_argument("--stage", type=Path, help=_STAGE)
    options = parser.parse_args(arguments)
    merged = merge_partitions(options.dir, options.stage)
    root = url_of(options.dir) or options.dir
    if merged.counts is not None:
        count = sum(merged.counts.values())
        print(f"{root}: all {merged.blocks} blocks are there; the index has what was kept of {count} rows")
        return 0
    count = merged.partitions
    print(f"{root}: {sum(merged.missing.values())} of {merged.blocks} blocks are missing; nothing was merged")
    if count == 1:
        print("the assemble command that began it makes them")
    for index, blocks_missing in merged.missing.items() if count > 1 else ():
        print(f"partition {index}/{count}: {blocks_missing} missing; assemble --partition {index}/{count} makes them")
    return 1


def _mean(arguments: list[str]) -> None:
    parser = _parser("mean")
    parser.add_argument("dir", type=Path, help="folder of the shards")
    parser.add_argument("--image_size", type=int, help="side in pixels; that of the shards, or 256, unless given")
    options = parser.parse_args(arguments)
    path, count = write_mean(options.dir, options.image_size)
    print(f"{path}: the mean of {count} pictures")


def _repack(arguments: list[str]) -> None:
    parser = _parser("repack")
    parser.add_argument("dir", type=Path, help="folder of the shards of originals; it is only read")
    parser.add_class_arguments(RepackConfig, None, skip={"dir"})
    namespace = parser.instantiate(parser.parse_args(arguments))
    repack(RepackConfig(**dict(namespace.items())), Console(soft_wrap=True))


def _report(arguments: list[str]) -> None:
    parser = _parser("report")
    parser.add_argument("dir", type=Path, help="folder of the shards")
    parser.add_argument("--out", type=Path, help="HTML file to write; DIR/report.html unless given")
    near = "look for kept pictures that look alike in another split, too: takes minutes, for each one is decoded"
    parser.add_argument("--near_duplicates", action="store_true", help=near)
    options = parser.parse_args(arguments)
    page: Path = options.out or options.dir / "report.html"
    began = time.monotonic()
    report = read_report(options.dir, near_duplicates=options.near_duplicates)
    write_page(report, page)
    # In a pipe there is no width to keep to.
    print_tables(report, Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200))
    print(f"{page}: the same as a page, with charts and pictures; made in {time.monotonic() - began:.1f} s")


def _verify(arguments: list[str]) -> int:
    parser = _parser("verify")
    parser.add_argument("dir", type=Path, help="folder of the shards, or their URL; it is only read")
    parser.add_argument("--stage", type=Path, help=_STAGE)
    options = parser.parse_args(arguments)
    with open_snapshot(options.dir, options.stage) as layout:
        verdict = verify(layout, Console(soft_wrap=True, stderr=True))
        root = layout.name
    for difference in verdict.differences[:_SHOWN]:
        print(str(difference).replace(str(layout.root), root))
    contents = f"{verdict.pictures} pictures of {verdict.rows} rows in {verdict.blocks} blocks"
    if not verdict.differences:
        print(f"{root}: whole: {contents}, each read, hashed and decoded")
        return 0
    count = len(verdict.differences)
    shown = f", of which the first {_SHOWN} are shown" if count > _SHOWN else ""
    print(f"{root}: {count} {'difference' if count == 1 else 'differences'}{shown}; {contents}")
    return 1


_COMMANDS = {
    "assemble": _assemble,
    "finalize": _finalize,
    "merge": _merge,
    "mean": _mean,
    "repack": _repack,
    "report": _report,
    "verify": _verify,
}

if __name__ == "__main__":
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and & have it
            signal.signal(signal.SIGINT, handle_interrupt)
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # just before or just after all of it
        print("stopped", file=sys.stderr)
        sys.exit(130)
