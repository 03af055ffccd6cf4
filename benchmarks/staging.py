"""Measures orders of reading: `python -m benchmarks.staging disk FOLDER | mixing`.

disk: makes shards in FOLDER and reads all pictures in several orders, with the page cache dropped before each; then
stages the shards to `--stage` and reads the copy. mixing: how many classes a batch contains and how sequential the
reads are, for a list sorted by label and for the same list permuted, as `assemble` does with a list of URLs.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.generated_dir import write_tars
from shards.format.columns import Names, Texts
from shards.format.index import Entries, ShardIndex
from shards.format.order import DataOrder, ShuffleWindow
from stylefinetune.data.staging.stage import stage_shards
from stylefinetune.distributed.world import World

ROWS_PER_SHARD, BATCH, SEED = 1000, 50, 1
CLASSES, SHARDS = 20, 80  # of the list in `mixing`
WINDOWS = (4, 16, 64)
RANKS, NEAR = 8, 16
Rows: TypeAlias = npt.NDArray[np.int64]


def make_shards(root: Path, shards: int, size: int) -> ShardIndex:
    """Pack pictures of `size` random bytes, 1,000 in each shard, and write an index."""
    random = np.random.default_rng(0)
    counts = {f"train/{number:05d}.tar": ROWS_PER_SHARD for number in range(shards)}
    write_tars(root, counts, lambda _: random.bytes(size), side=1)
    return ShardIndex.load(root)


def order_of(entries: Entries, window: int | None) -> Rows:
    """Return the rows of an epoch: in list order (None), permuted (0), or with a shuffle window."""
    if window is None:
        return np.arange(len(entries))
    within = ShuffleWindow.from_index(window, entries.shard.codes, entries.offset) if window else None
    order = DataOrder(len(entries), shuffle=True, seed=SEED, window=within)
    return np.array([order.row(position) for position in range(len(entries))])


def drop_cache(root: Path) -> None:
    """Drop the tars from the page cache, after flushing them to the disk."""
    for path in root.rglob("*.tar"):
        with path.open("rb") as tar:
            os.fsync(tar.fileno())
            os.posix_fadvise(tar.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(entries: Entries, root: Path, rows: Rows, readers: int) -> float:
    """Read all rows with several threads, each a batch at a time, and return MB/s."""
    files = {name: os.open(root / name, os.O_RDONLY) for name in entries.shard.distinct}
    batches = [rows[first : first + BATCH].tolist() for first in range(0, len(rows), BATCH)]

    def read_batches(reader: int) -> None:
        for batch in batches[reader::readers]:
            for row in batch:
                body = os.pread(files[entries.shard[row]], int(entries.length[row]), int(entries.offset[row]))
                assert len(body) == entries.length[row]

    began = time.monotonic()
    with ThreadPoolExecutor(readers) as pool:
        list(pool.map(read_batches, range(readers)))
    seconds = time.monotonic() - began
    for file in files.values():
        os.close(file)
    return int(entries.length.sum()) / seconds / 1e6


def copy_files(root: Path, copy: Path, names: Iterable[str]) -> None:
    """Copy files and flush them to the disk, without the checks of `stage_shards`."""
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, copy / name)
        with (copy / name).open("rb") as made:
            os.fsync(made.fileno())


def repeat(measure: Callable[[], float], rounds: int) -> str:
    """Return the median and the range of several rounds as text."""
    found = [measure() for _ in range(rounds)]
    return f"{statistics.median(found):,.0f} ({min(found):,.0f}-{max(found):,.0f})"


def measure_disk(root: Path, copy: Path, options: argparse.Namespace) -> Table:
    """Make shards in `root` and read them there and staged to `copy`."""
    index = make_shards(root, options.shards, options.bytes)
    entries, world = index.entries("train"), World(rank=0, size=1, device=torch.device("cpu"))
    size = int(entries.length.sum())
    readers: list[int] = options.readers
    table = Table(f"MB/s, {len(entries):,} pictures of {options.bytes:,} bytes", box=None, pad_edge=False)
    for count in readers:
        table.add_column(f"{count} at a time", justify="right")

    def fresh(folder: Path, rows: Rows, count: int) -> float:
        drop_cache(folder)
        return read(entries, folder, rows, count)

    orders: list[tuple[str, int | None]] = [("list order", None), ("permuted", 0)]
    for what, window in [*orders, *((f"window of {window}", window) for window in WINDOWS if window < options.shards)]:
        rows = order_of(entries, window)
        found = [repeat(lambda rows=rows, count=count: fresh(root, rows, count), options.rounds) for count in readers]
        table.add_row(f"in place, {what}", *found)

    def measure_copy(make: Callable[[], object]) -> float:
        shutil.rmtree(copy, ignore_errors=True)
        drop_cache(root)
        began = time.monotonic()
        make()
        return size / (time.monotonic() - began) / 1e6

    names = entries.shard.distinct
    plain = repeat(lambda: measure_copy(lambda: copy_files(root, copy, names)), options.rounds)
    staged = repeat(lambda: measure_copy(lambda: stage_shards(index, names, copy, world)), options.rounds)
    table.add_row("copied and flushed only", plain)
    table.add_row("staged, with checks", staged)
    began = time.monotonic()
    stage_shards(index, names, copy, world)
    table.add_row("seconds to check that it is staged", f"{time.monotonic() - began:.2f}")
    rows = order_of(entries, 0)
    found = [repeat(lambda count=count: fresh(copy, rows, count), options.rounds) for count in readers]
    table.add_row("copy, permuted", *found)
    found = [repeat(lambda count=count: read(entries, copy, rows, count), options.rounds) for count in readers]
    table.add_row("copy in the page cache, permuted", *found)
    return table


def mixing() -> Table:
    """Analyses one epoch of each order."""
    count = SHARDS * ROWS_PER_SHARD
    in_label_order = np.arange(count) // (count // CLASSES)
    permuted = np.random.default_rng(0).permutation(in_label_order)
    names = Names([f"{shard:05d}" for shard in range(SHARDS)], (np.arange(count) // ROWS_PER_SHARD).astype(np.int32))
    positions, keys, formats = np.arange(count) % ROWS_PER_SHARD, Texts(pa.chunked_array([[""] * count])), names
    entries = Entries(Path(), keys, in_label_order, names, positions, positions, positions, positions, formats)
    table = Table(f"{count:,} pictures in {SHARDS} shards", box=None, pad_edge=False)
    for column in ("classes a batch", "permuted list", "neighbours in a batch", "sequential", f"of 1/{RANKS}, near"):
        table.add_column(column, justify="right")
    for what, window in (("permuted", 0), *((f"window of {window}", window) for window in (*WINDOWS, SHARDS))):
        rows = order_of(entries, window)
        batches = rows.reshape(-1, BATCH)
        batch_of = np.empty(count, np.int64)
        batch_of[rows] = np.arange(count) // BATCH
        table.add_row(
            what,
            *(f"{np.mean([len(np.unique(labels[b])) for b in batches]):.1f}" for labels in (in_label_order, permuted)),
            f"{np.mean((np.diff(batch_of) == 0)[positions[1:] > 0]):.2%}",
            f"{np.mean(ahead(rows) == 1):.1%}",
            f"{near(batches[:, : BATCH // RANKS].ravel()):.1%}",
        )
    return table


def ahead(rows: Rows) -> Rows:
    """Return the distance of each read from the previous read of the same shard, in pictures; may be negative."""
    by_shard = rows[np.argsort(rows // ROWS_PER_SHARD, kind="stable")]
    return np.diff(by_shard)


def near(rows: Rows) -> float:
    """Return the fraction of reads that are 1 to NEAR pictures after the previous read of the same shard."""
    steps = ahead(rows)
    return float(np.mean((steps > 0) & (steps <= NEAR)))


def main(arguments: list[str]) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staging", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["disk", "mixing"])
    parser.add_argument("folder", type=Path, nargs="?", help="folder for the shards; they are removed at the end")
    parser.add_argument("--stage", type=Path, help="folder to stage them to (default: FOLDER)")
    parser.add_argument("--shards", type=int, default=20, help="number of shards of 1,000 pictures")
    parser.add_argument("--bytes", type=int, default=100_000, help="size of a picture")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 8], help="numbers of reading threads")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.what == "mixing":
        table = mixing()
    elif options.folder is None:
        parser.error("disk needs a FOLDER")
    else:
        root, copy = options.folder / "benchmark-shards", (options.stage or options.folder) / "benchmark-stage"
        try:
            table = measure_disk(root, copy, options)
        finally:
            for made in (root, copy):
                shutil.rmtree(made, ignore_errors=True)
    Console(width=130).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
