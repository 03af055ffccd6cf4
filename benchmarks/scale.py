"""Measures long lists and large directories: `python -m benchmarks.scale [--before DIR] [--rows N ...] [--kinds ...]`.

- list: from a generated CSV file to the stored rows and the first block, before any download; subset: 2,000 of its rows
- index: from a generated index.parquet to the columns of its split, as each rank of a training run loads it
- permutation: the order of an epoch; window: the same, shuffled within a window of 64 tars
- finalize, merge, report, verify: the command of this name, for a generated directory with blocks of 1,000 rows

Each measurement is a separate process. `verify` reads all pictures, so its directory has a 25th of the rows. The tars
of the other directories have holes instead of most pictures. With `--before`, each measurement is also made with the
modules of the checkout DIR, for example of `git worktree add DIR COMMIT`; they write the files, which both can read.
"""

import argparse
import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.generated_dir import write_dir, write_large_index, write_list
from shards.assembly.row_order import open_or_create
from shards.commands import load_modules, run_command
from shards.config.recipe import Recipe
from shards.format.index import ShardIndex
from shards.format.order import DataOrder, ShuffleWindow
from shards.url_list.source import read_source

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("finalize", "merge", "report", "verify")
KINDS = ("list", "subset", "index", "permutation", "window", *COMMANDS)
_VERIFIED = 25  # one of 25 rows is verified


def prepare_list(path: Path, images: int) -> None:
    """Select and store the rows of a list, and read the first block."""
    source = read_source([str(path)])
    recipe = Recipe(source.sha256, images, 831486, None, 0.2, "original", 0, 1000)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        shard_dir = open_or_create(Path(folder), recipe, Path(folder), source)
        assert shard_dir.rows_of(shard_dir.blocks()[0])


def load_index(folder: Path, rows: int) -> None:
    """Load the columns of a split."""
    assert len(ShardIndex.load(folder).entries("train")) == rows


def order_epoch(rows: int, window: int) -> None:
    """Compute the order of an epoch, with the columns that it needs."""
    chosen = None
    if window:
        shards, offsets = np.arange(rows, dtype=np.int32) // 1000, np.arange(rows) % 1000 * 512
        chosen = ShuffleWindow.from_index(window, shards, offsets)
    assert DataOrder(rows, shuffle=True, seed=1, window=chosen).row(0) >= 0


def run_shards(command: str, folder: Path) -> None:
    """Run a command of the data side without its output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = run_command(command, [str(folder)])
    assert code == 0, output.getvalue()


def measure(kind: str, rows: int, folder: Path) -> None:
    """Run one measurement in this process and print its figures."""
    steps: dict[str, Callable[[], None]] = {
        "list": lambda: prepare_list(folder / "list.csv", -1),
        "subset": lambda: prepare_list(folder / "list.csv", 2000),
        "index": lambda: load_index(folder, rows),
        "permutation": lambda: order_epoch(rows, 0),
        "window": lambda: order_epoch(rows, 64),
    }
    if kind in COMMANDS:
        load_modules(kind)
        steps[kind] = lambda: run_shards(kind, folder / ("verified" if kind == "verify" else "dir"))
    pa.set_memory_pool(pa.system_memory_pool())  # as the commands do
    start = time.process_time()
    steps[kind]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.process_time() - start:8.1f} processor seconds, peak {peak:8,.0f} MiB", flush=True)


def write_inputs(kinds: set[str], rows: int, folder: Path) -> None:
    """Write the files that the measurements read."""
    if kinds & {"list", "subset"}:
        write_list(folder / "list.csv", rows)
    if "index" in kinds:
        write_large_index(folder / "index.parquet", rows)
    if kinds & {"finalize", "merge", "report"}:
        write_dir(folder / "dir", rows, has_holes=True)
        run_shards("finalize", folder / "dir")  # the report reads its files
    if "verify" in kinds:
        write_dir(folder / "verified", rows // _VERIFIED, has_holes=False)
        run_shards("finalize", folder / "verified")


def run(checkout: Path, kind: str, rows: int, folder: Path) -> None:
    """Run a step of this program with the modules of a checkout."""
    command = [sys.executable, __file__, f"--rows={rows}", f"--folder={folder}", f"--step={kind}"]
    subprocess.run(command, check=True, cwd=checkout, env=os.environ | {"PYTHONPATH": f"{checkout}:{ROOT}"})


def main(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of an earlier version to compare with")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a step
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        if options.step in KINDS:
            measure(options.step, options.rows[0], options.folder)
        else:
            write_inputs({*options.step.split(",")}, options.rows[0], options.folder)
        return
    checkouts = {"before": options.before.resolve(), "now": ROOT} if options.before else {"now": ROOT}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            run(next(iter(checkouts.values())), ",".join(["files", *options.kinds]), rows, Path(name))
            for kind in options.kinds:
                count = rows // _VERIFIED if kind == "verify" else rows
                for version, checkout in [*checkouts.items()] * options.rounds:
                    print(f"{kind:12} {count:>12,} rows, {version:7}", end="", flush=True)
                    run(checkout, kind, rows, Path(name))


if __name__ == "__main__":
    main(sys.argv[1:])
