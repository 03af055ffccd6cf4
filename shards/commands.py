"""Runs the commands of the data side: reads the flags, calls the function that does the work, prints its result.

A command imports only the modules that it needs, after its flags were read.
"""

import importlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console

from shards.config.cli import build_parser as build_assemble_parser
from shards.config.cli import command_parser, one_line, parse_assemble_config
from shards.counted import counted
from shards.errors import ConfigError, ShardsError
from shards.files import is_full_disk
from shards.location import url_of
from shards.progress import OutputConsole, print_line

_MAX_SHOWN = 20  # differences
_MODULES = {  # those that take long to import
    "assemble": ["shards.assembly.assemble"],
    "finalize": ["shards.assembly.finalize", "shards.storage.session"],
    "index": ["shards.indexing.index_tars"],
    "mean": ["shards.assembly.mean"],
    "merge": ["shards.assembly.partition"],
    "repack": ["shards.assembly.repack"],
    "report": ["shards.report.html"],
    "verify": ["shards.storage.snapshot", "shards.verify.verify"],
}


_HELP = {  # what a command does, and an example
    "finalize": (
        "Writes index.parquet and outcomes.parquet of DIR again, from its complete blocks (a block makes one tar).",
        "data/mine",
    ),
    "index": (
        "Makes a folder of shards from existing WebDataset tars, without copying them.",
        "'tars/*.tar' --out data/mine --label_from cls",
    ),
    "mean": (
        "Writes DIR/mean.npy, the mean picture of a split, which CaffeNet's training subtracts.",
        "data/mine",
    ),
    "merge": (
        "Completes a DIR that several tasks have made with --partition: writes its index if no block is missing.",
        "data/mine",
    ),
    "repack": (
        "Makes shards of another format from a DIR of original pictures, without downloading them again.",
        "data/mine --encode_format pixels",
    ),
    "report": (
        "Counts the outcomes of DIR: what became of each row of its list. Writes a page with charts and pictures.",
        "data/mine",
    ),
    "verify": (
        "Reads every picture of DIR, and compares it with the index and the outcomes. Exits with 1 if one differs.",
        "data/mine",
    ),
}


def load_modules(command: str) -> None:
    """Import what a command needs, if an import must not be interrupted later."""
    for name in _MODULES[command]:
        importlib.import_module(name)


def build_parser(command: str) -> ArgumentParser:
    """Return the parser of one command."""
    if command == "assemble":
        return build_assemble_parser()
    parser = command_parser(command, *_HELP[command])
    if command == "index":
        from shards.indexing.config import IndexConfig

        parser.add_argument(
            "tars", nargs="+", metavar="TAR", help="paths, folders, '*.tar', 'shard-{000..099}.tar', or URLs of tars"
        )
        parser.add_class_arguments(IndexConfig, None, skip={"tars"})
        return parser
    may_be_url = command in {"finalize", "merge", "verify"}
    parser.add_argument(
        "dir", type=Path, metavar="DIR", help="folder of the shards" + (", or its URL" if may_be_url else "")
    )
    if may_be_url:
        parser.add_argument(
            "--stage", type=Path, help="local folder to work in if DIR is a URL (default: a cache folder)"
        )
    if command == "mean":
        from shards.assembly.mean import TRAIN

        parser.add_argument("--image_size", type=int, help="side in pixels (default: the shards' own, or 256)")
        parser.add_argument("--split", default=TRAIN, help="the split on which the run trains")
    if command == "repack":
        from shards.assembly.repack import RepackConfig

        parser.add_class_arguments(RepackConfig, None, skip={"dir"})
    if command == "report":
        parser.add_argument("--out", type=Path, help="HTML file to write (default: DIR/report.html)")
        parser.add_argument(
            "--near_duplicates",
            action="store_true",
            help="also find similar pictures in different splits; takes minutes, since every picture is decoded",
        )
    return parser


def run_command(command: str, arguments: list[str]) -> int:
    """Run one command and return its exit code: 1 if something is missing or differs, 2 for a mistake of the user's."""
    try:
        if command == "assemble":
            return _assemble(arguments)
        parser = build_parser(command)
        options = parser.parse_args(arguments)
        _return_memory()
        if command in {"repack", "index"}:
            options = parser.instantiate(options)
        return _RUN[command](options)
    except BrokenPipeError:  # the reader of the output has gone
        raise
    except (ShardsError, ConfigError, ArgumentError) as error:
        print("error: " + one_line(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        print("error: " + one_line(_explain(error)), file=sys.stderr)
        return 2
    except MemoryError as error:
        detail = f" ({one_line(str(error))})" if str(error) else ""
        print(f"error: out of memory{detail}; give it more memory, or use fewer --workers", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = shlex.join([command, *arguments])
        print(f"stopped; run the same command to continue: shards {again}", file=sys.stderr)
        return 130


def _explain(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if is_full_disk(error):
        return f"{place}the disk is full; free some space and run the same command again"
    return f"{place}{error.strerror or error}"


def _return_memory() -> None:
    """Let Arrow return memory to the system, which its own pool doesn't."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())


def _progress_console() -> OutputConsole:
    """Return the console for the progress of a command whose output is its result."""
    return OutputConsole(soft_wrap=True, stderr=True)


def _assemble(arguments: list[str]) -> int:
    config = parse_assemble_config(arguments)
    from shards.assembly.assemble import assemble

    _return_memory()
    console = OutputConsole(soft_wrap=True)
    reason = assemble(config, console)
    if reason:
        return _report_empty(reason)
    if not config.partition:
        _print_next_commands(config.out, console)
    return 0


def _print_next_commands(out: Path, console: Console) -> None:
    url = url_of(out)
    name = shlex.quote(url or str(out))
    if url is None:  # report reads a folder only
        print_line(console, f"To see what it holds, run: shards report {name}")
    flags = f"--data.shards {name} --run_dir RUN --model.arch resnet50 --weights DEFAULT"
    print_line(console, f"To train on it, run: stylefinetune train {flags}")


def _repack(options: Namespace) -> int:
    from shards.assembly.repack import RepackConfig, repack

    repack(RepackConfig(**dict(options.items())), OutputConsole(soft_wrap=True))
    return 0


def _index(options: Namespace) -> int:
    from shards.indexing.config import IndexConfig
    from shards.indexing.index_tars import index_tars

    values: dict[str, Any] = dict(options.items())
    config = IndexConfig(tars=tuple(values.pop("tars")), **values)
    reason = index_tars(config, OutputConsole(soft_wrap=True))
    return _report_empty(reason) if reason else 0


def _report_empty(reason: str) -> int:
    print(f"error: {one_line(reason)}", file=sys.stderr)
    return 1


def _finalize(options: Namespace) -> int:
    from shards.assembly.finalize import finalize
    from shards.storage.session import open_existing_session

    with open_existing_session(options.dir, options.stage) as (shard_dir, session):
        counts = finalize(shard_dir, session.work, session.remote, _progress_console())
    count = f"{counts.total():,} of {counted(len(shard_dir), 'row')}"
    print(f"{session.name}: committed blocks have {count}; index.parquet lists the kept pictures")
    return 0


def _merge(options: Namespace) -> int:
    from shards.assembly.partition import merge_partitions
    from shards.format.outcomes import Status

    merged = merge_partitions(options.dir, options.stage, _progress_console())
    root = url_of(options.dir) or options.dir
    if merged.counts is not None:
        count = sum(merged.counts.values())
        blocks = counted(merged.blocks, "complete block")
        print(f"{root}: {blocks}, none is missing; index.parquet lists the kept pictures of {counted(count, 'row')}")
        if not merged.counts.get(Status.KEPT):
            return _report_empty(
                f"{root} has no picture: none of the {count} rows was kept; outcomes.parquet has the reasons"
            )
        return 0
    count = merged.partitions
    print(f"{root}: {sum(merged.missing.values())} of {counted(merged.blocks, 'block')} missing; nothing was merged")
    if count == 1:
        print("run the assemble command again to make them")
    for index, missing in merged.missing.items() if count > 1 else ():
        print(f"partition {index}/{count}: {missing} missing; run assemble --partition {index}/{count} to make them")
    return 1


def _mean(options: Namespace) -> int:
    from shards.assembly.mean import write_mean

    path, count = write_mean(options.dir, options.image_size, options.split, _progress_console())
    print(f"{path}: the mean of {counted(count, 'picture')}")
    return 0


def _report(options: Namespace) -> int:
    from shards.report.html import write_page
    from shards.report.report import read_report
    from shards.report.tables import print_tables

    page: Path = options.out or options.dir / "report.html"
    start = time.monotonic()
    report = read_report(options.dir, near_duplicates=options.near_duplicates, console=_progress_console())
    try:
        write_page(report, page)
    except OSError as error:
        if is_full_disk(error):
            raise
        raise ShardsError(f"{page} can't be written ({error.strerror}); name another file with --out") from error
    # A pipe has no width; 200 columns keep the tables on one line.
    print_tables(report, OutputConsole(soft_wrap=True, width=None if sys.stdout.isatty() else 200))
    print(f"{page}: the same report with charts and pictures, written in {time.monotonic() - start:.1f} s")
    return 0


def _verify(options: Namespace) -> int:
    from shards.storage.snapshot import open_snapshot
    from shards.verify.verify import verify

    with open_snapshot(options.dir, options.stage) as snapshot:
        result = verify(snapshot, _progress_console())
        root = snapshot.name
    for difference in result.differences[:_MAX_SHOWN]:
        print(str(difference).replace(str(snapshot.root), root))
    pictures, rows = counted(result.pictures, "picture"), counted(result.rows, "row")
    contents = f"{pictures} of {rows} in {counted(result.blocks, 'block')}"
    if not result.differences:
        print(f"{root}: no differences: {contents}, each read, hashed and decoded")
        return 0
    count = len(result.differences)
    shown = f", of which the first {_MAX_SHOWN} are shown" if count > _MAX_SHOWN else ""
    print(f"{root}: {counted(count, 'difference')}{shown}; {contents}")
    return 1


_RUN = {
    "finalize": _finalize,
    "index": _index,
    "mean": _mean,
    "merge": _merge,
    "repack": _repack,
    "report": _report,
    "verify": _verify,
}
