"""Measures what long lists and large indexes take: `python -m benchmarks.scale --rows 1000000 10000000`.

list: from a generated CSV file to the stored rows and the first block, before any download. index: from a generated
index.parquet to the columns of its split, as each rank of a training run loads it. Each is a separate process.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.assembly.row_order import open_or_create
from shards.config.recipe import Recipe
from shards.format.index import INDEX_SCHEMA, IndexMetadata, ShardIndex, write_index
from shards.url_list.source import read_source

_PART = 100_000  # rows that are generated together


def write_list(path: Path, rows: int) -> None:
    """Write a list of `rows` URLs of 5,000 hosts and about 65 bytes."""
    with path.open("w") as file:
        file.write("image_url,label\n")
        for row in range(rows):
            album = row * 7919 % 1_000_003
            file.write(f"http://pictures{row % 5000}.example.com/albums/{album}/{row:08d}_large.jpg,{row % 20}\n")


def prepare_list(path: Path, images: int) -> None:
    """Select and store the rows of a list, and read the first block."""
    source = read_source([str(path)])
    recipe = Recipe(source.sha256, images, 831486, None, 0.2, "original", 0, 1000)
    work = path.parent / "work"
    work.mkdir(exist_ok=True)
    shard_dir = open_or_create(path.parent / f"out{images}", recipe, work, source)
    assert shard_dir.rows_of(shard_dir.blocks()[0])


def write_large_index(path: Path, rows: int) -> None:
    """Write an index of `rows` pictures in tars of 1,000."""

    def part(start: int) -> pa.Table:
        row = np.arange(start, min(rows, start + _PART))
        same = np.full(len(row), 500)
        text = pa.array(row).cast(pa.string())
        names = {name: pa.array([value] * len(row)) for name, value in {"split": "train", "format": "jpg"}.items()}
        shards = pa.array([f"train/{number // 1000:05d}.tar" for number in row.tolist()])
        digests = pa.array([f"{number:064x}" for number in row.tolist()])
        columns = {name: pa.array(same) for name in ("length", "width", "height")} | names
        columns |= {"row": pa.array(row), "key": text, "label": pa.array(row % 20), "offset": pa.array(row * 512)}
        columns |= {"shard": shards, "sha256": digests}
        return pa.table([columns[name] for name in INDEX_SCHEMA.names], INDEX_SCHEMA.names).cast(INDEX_SCHEMA)

    metadata = IndexMetadata(tuple(map(str, range(20))), "original", 0, "0" * 64, 831486)
    write_index(path, map(part, range(0, rows, _PART)), metadata)


def measure(kind: str, rows: int, folder: Path) -> None:
    """Run one measurement in this process and print its figures."""
    pa.set_memory_pool(pa.system_memory_pool())  # as the commands do
    start = time.process_time()
    if kind == "index":
        assert len(ShardIndex.load(folder).entries("train")) == rows
    else:
        prepare_list(folder / "list.csv", 2000 if kind == "subset" else -1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{kind:7} {rows:>12,} rows: {time.process_time() - start:6.1f} processor seconds, peak {peak:,.0f} MiB")


def main(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=["list", "subset", "index"], default=["list", "subset", "index"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the measuring process
    options = parser.parse_args(arguments)
    if options.folder:
        measure(options.kinds[0], options.rows[0], options.folder)
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if "index" in options.kinds:
                write_large_index(folder / "index.parquet", rows)
            if {"list", "subset"} & {*options.kinds}:
                write_list(folder / "list.csv", rows)
            for kind in options.kinds:
                command = [sys.executable, "-m", "benchmarks.scale", f"--rows={rows}", f"--kinds={kind}"]
                subprocess.run([*command, f"--folder={folder}"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
