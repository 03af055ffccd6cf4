"""What an order of reading costs on a disk, and in randomness: `python -m benchmarks.staging disk FOLDER | mixing`.

disk: makes shards in FOLDER, reads all their pictures in several orders, the system's memory of them dropped before
each, then stages them to --stage and reads the copy. mixing: how mixed the classes of a batch are, and how sequential
the reads, for a list in label order and for the same one permuted, as `assemble` does with a list of URLs.
"""

import argparse
import io
import os
import shutil
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from shards.format.index import INDEX_SCHEMA, Entries, IndexMetadata, ShardIndex, write_index
from stylefinetune.data.sampler import DataOrder, ShuffleWindow
from stylefinetune.data.staging import stage_shards
from stylefinetune.distributed.world import World

ROWS_PER_SHARD, BATCH, SEED = 1000, 50, 1
CLASSES, SHARDS = 20, 80  # of the list whose mixing is looked at
WINDOWS = (4, 16, 64)
RANKS, NEAR = 8, 16
Rows: TypeAlias = npt.NDArray[np.int64]


def make_shards(root: Path, shards: int, size: int) -> ShardIndex:
    """Packs pictures of `size` random bytes, 1,000 a shard, with an index."""
    (root / "train").mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for number in range(shards):
        name = f"train/{number:05d}.tar"
        with tarfile.open(root / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for place in range(ROWS_PER_SHARD):
                member, body = tarfile.TarInfo(f"{number:05d}{place:05d}.jpg"), random.bytes(size)
                member.size = size
                tar.addfile(member, io.BytesIO(body))
                rows.append((member.name[:-4], name, tar.offset - -(-size // 512) * 512, sha256(body).hexdigest()))
    keys, names, offsets, digests = zip(*rows, strict=True)
    count = len(rows)
    columns = [range(count), keys, ["train"] * count, [0] * count, names, offsets, [size] * count, *[[1] * count] * 2]
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=False)]
    arrays += [pa.array(["jpg"] * count), pa.array(digests)]
    write_index(
        root / "index.parquet", [pa.table(arrays, schema=INDEX_SCHEMA)], IndexMetadata(("one",), "original", 0, "", 0)
    )
    return ShardIndex.load(root)


def order_of(entries: Entries, window: int | None) -> Rows:
    """Returns an epoch's rows: in list order (None), permuted (0), or within a window."""
    if window is None:
        return np.arange(len(entries))
    within = ShuffleWindow.of(window, entries.shard, entries.offset) if window else None
    order = DataOrder(len(entries), shuffle=True, seed=SEED, window=within)
    return np.array([order.row(place) for place in range(len(entries))])


def forget(root: Path) -> None:
    """Has the system drop what it remembers of the tars; it keeps what isn't on the disk yet."""
    for path in root.rglob("*.tar"):
        with path.open("rb") as tar:
            os.fsync(tar.fileno())
            os.posix_fadvise(tar.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(entries: Entries, root: Path, rows: Rows, readers: int) -> float:
    """Reads all rows, a batch of one reader at a time, and returns MB/s."""
    files = {name: os.open(root / name, os.O_RDONLY) for name in set(entries.shard)}
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


def timed(act: Callable[[], float], rounds: int) -> str:
    """Returns the median of several rounds and their range."""
    found = [act() for _ in range(rounds)]
    return f"{statistics.median(found):,.0f} ({min(found):,.0f}-{max(found):,.0f})"


def measure_disk(root: Path, copy: Path, options: argparse.Namespace) -> Table:
    """Reads shards made in `root`, in place and staged to `copy`."""
    index = make_shards(root, options.shards, options.bytes)
    entries, world = index.entries("train"), World(rank=0, size=1, device=torch.device("cpu"))
    size = int(entries.length.sum())
    readers: list[int] = options.readers
    table = Table(f"MB/s, {len(entries):,} pictures of {options.bytes:,} bytes", box=None, pad_edge=False)
    for count in readers:
        table.add_column(f"{count} at a time", justify="right")

    def fresh(folder: Path, rows: Rows, count: int) -> float:
        forget(folder)
        return read(entries, folder, rows, count)

    orders: list[tuple[str, int | None]] = [("list order", None), ("permuted", 0)]
    for what, window in [*orders, *((f"window of {window}", window) for window in WINDOWS if window < options.shards)]:
        rows = order_of(entries, window)
        found = [timed(lambda rows=rows, count=count: fresh(root, rows, count), options.rounds) for count in readers]
        table.add_row(f"in place, {what}", *found)

    def copied_alone() -> float:
        shutil.rmtree(copy, ignore_errors=True)
        forget(root)
        began = time.monotonic()
        for name in sorted(set(entries.shard)):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy / name)
            with (copy / name).open("rb") as made:
                os.fsync(made.fileno())
        return size / (time.monotonic() - began) / 1e6

    def copied() -> float:
        shutil.rmtree(copy, ignore_errors=True)
        forget(root)
        began = time.monotonic()
        stage_shards(index, entries.shard, copy, world)
        return size / (time.monotonic() - began) / 1e6

    table.add_row("copied and synced alone", timed(copied_alone, options.rounds))
    table.add_row("staged: checked, too", timed(copied, options.rounds))
    began = time.monotonic()
    stage_shards(index, entries.shard, copy, world)
    table.add_row("seconds to see that it is staged", f"{time.monotonic() - began:.2f}")
    rows = order_of(entries, 0)
    found = [timed(lambda count=count: fresh(copy, rows, count), options.rounds) for count in readers]
    table.add_row("copy, permuted", *found)
    found = [timed(lambda count=count: read(entries, copy, rows, count), options.rounds) for count in readers]
    table.add_row("copy in memory, permuted", *found)
    return table


def mixing() -> Table:
    """Looks at one epoch of each order."""
    count = SHARDS * ROWS_PER_SHARD
    in_label_order = np.arange(count) // (count // CLASSES)
    permuted = np.random.default_rng(0).permutation(in_label_order)
    names = [f"{row // ROWS_PER_SHARD:05d}" for row in range(count)]
    places, blank = np.arange(count) % ROWS_PER_SHARD, [""] * count
    entries = Entries(Path(), blank, in_label_order, names, places, places, places, places, blank)
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
            f"{np.mean((np.diff(batch_of) == 0)[places[1:] > 0]):.2%}",
            f"{np.mean(ahead(rows) == 1):.1%}",
            f"{near(batches[:, : BATCH // RANKS].ravel()):.1%}",
        )
    return table


def ahead(rows: Rows) -> Rows:
    """Returns how many pictures further on than the last one of its shard each is; negative where it lies before."""
    by_shard = rows[np.argsort(rows // ROWS_PER_SHARD, kind="stable")]
    return np.diff(by_shard)


def near(rows: Rows) -> float:
    """Returns the share of reads that begin within NEAR pictures after the last one of the same shard."""
    steps = ahead(rows)
    return float(np.mean((steps > 0) & (steps <= NEAR)))


def main(arguments: list[str]) -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staging", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["disk", "mixing"])
    parser.add_argument("folder", type=Path, nargs="?", help="where to make shards; they are removed in the end")
    parser.add_argument("--stage", type=Path, help="where to stage them (default: beside them)")
    parser.add_argument("--shards", type=int, default=20, help="of 1,000 pictures")
    parser.add_argument("--bytes", type=int, default=100_000, help="of a picture")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 8], help="threads that read")
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
