"""Index existing WebDataset tars in place: DIR gets links to them, an index and outcomes, as if they were assembled."""

import concurrent.futures
import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from shards.assembly.deduplicate import DuplicateRules
from shards.assembly.finalize import finalize, write_rules
from shards.assembly.worker_pool import check_interrupt, hold_interrupts, packing_pool
from shards.config.schema import count_processes
from shards.counted import counted
from shards.errors import ShardsError
from shards.files import make_folder, publish_file, sync_path, unpublish_file, write_file
from shards.format.index import INDEX_FILE, LABELS, index_schema
from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA, Status
from shards.indexing.config import IndexConfig
from shards.indexing.contents import Contents, join_scans
from shards.indexing.find_tars import find_tars
from shards.indexing.scan_tar import WARNING_KEY, ScanRules, scan_tar
from shards.location import refuse_url
from shards.progress import print_line, track_progress
from shards.storage.file_lock import exclusive_lock
from shards.storage.shard_dir import ROWS_PATH, Block, ShardDir, create_shard_dir, load_shard_dir
from shards.url_list.labels import read_classes
from shards.url_list.parse import ROWS_SCHEMA, SEVERAL_LABELS_SCHEMA

_STATE_PATH = "blocks/tars.json"  # what DIR was made from; written before the index
_SCANS_FOLDER = "scans"  # the samples of each tar that was read, until the index is written


def index_tars(config: IndexConfig, console: Console) -> str | None:
    """Make DIR, or make it again if the tars have changed; a tar that was read before a kill isn't read again.

    Returns:
        Why DIR has no picture, in one line; None if it has one.

    Raises:
        ShardsError: a tar can't be indexed, DIR was made by another command, or has files where the links go.
    """
    refuse_url(config.out)
    root = config.out
    _refuse_other(root)
    with exclusive_lock(root) as work:
        tars = find_tars(config.tars, root)
        state = _describe(tars, config)
        if all((root / name).is_file() for name in (INDEX_FILE, OUTCOMES_FILE)) and _read_state(root) == state:
            print_line(console, f"{root} has the index of these {len(tars)} tars")
            return None
        scans = _scan(tars, config, root, console)
        contents = join_scans(tars, scans, config)
        shard_dir = _write(contents, tars, root, work)
        write_file(root / _STATE_PATH, state)
        counts = finalize(shard_dir, work)
        shutil.rmtree(root / _SCANS_FOLDER)
    _print_summary(console, root, contents, counts)
    return None if counts[Status.KEPT] else f"{root} has no picture: none of the {counts.total()} samples was kept"


def _refuse_other(root: Path) -> None:
    """Check that DIR doesn't exist, or was made by `index`.

    Raises:
        ShardsError: it was made by another command.
    """
    if (root / ROWS_PATH).is_file() and not load_shard_dir(root).recipe.indexed:
        raise ShardsError(f"{root} was made by assemble; use another --out")


def _describe(tars: list[Path], config: IndexConfig) -> bytes:
    """Return what determines the contents of DIR."""
    stats = [path.stat() for path in tars]
    listed = [
        [os.path.abspath(path), stat.st_size, stat.st_mtime_ns]  # noqa: PTH100 -- links are kept
        for path, stat in zip(tars, stats, strict=True)
    ]
    settings = {"rules": dataclasses.asdict(config.rules), "classes": read_classes(config.classes)}
    settings |= {"split": config.split, "test_share": config.test_share, "seed": config.seed}
    return json.dumps({"tars": listed, **settings}, indent=1).encode()


def _read_state(root: Path) -> bytes | None:
    path = root / _STATE_PATH
    return path.read_bytes() if path.is_file() else None


def _scan(tars: list[Path], config: IndexConfig, root: Path, console: Console) -> list[Path]:
    """Read all tars that weren't read before, and return the file of each with its samples."""
    folder = root / _SCANS_FOLDER
    make_folder(folder)
    targets = [folder / f"{_hash_file(path, config.rules)}.parquet" for path in tars]
    missing = [(path, target) for path, target in zip(tars, targets, strict=True) if not target.is_file()]
    workers = min(count_processes(config.workers), max(1, len(missing)))
    print_line(console, f"Reading {len(missing)} of {counted(len(tars), 'tar')} with {counted(workers, 'worker')}...")
    if missing:
        with packing_pool(workers) as pool:
            with hold_interrupts():
                scanning = [pool.submit(scan_tar, path, config.rules, target) for path, target in missing]
            for done in track_progress(concurrent.futures.as_completed(scanning), len(missing), "tars read", console):
                done.result()
                check_interrupt()
    for path, target in zip(tars, targets, strict=True):
        warning = (pq.read_metadata(target).metadata or {}).get(WARNING_KEY, b"").decode()
        if warning:
            print_line(console, f"warning: {path}: {warning}")
    return targets


def _hash_file(path: Path, rules: ScanRules) -> str:
    stat = path.stat()
    identity = (os.path.abspath(path), stat.st_size, stat.st_mtime_ns, rules)  # noqa: PTH100 -- links are kept
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _write(contents: Contents, tars: Sequence[Path], root: Path, work: Path) -> ShardDir:
    """Write links to the tars, the rows, and the parts of the index and the outcomes.

    The old index is removed first: with the new links, its offsets would be wrong.
    """
    blocks = {
        Block(split, number): tar
        for split in contents.split_names
        for number, tar in enumerate(contents.tars_of(split))
    }
    _refuse_files(root, blocks)
    for name in (OUTCOMES_FILE, INDEX_FILE, _STATE_PATH):
        unpublish_file(root / name)
    for link in root.glob("*/*.tar"):
        if link.is_symlink():
            link.unlink()
    for part in root.glob("blocks/*.parquet"):
        part.unlink()
    for block, tar in blocks.items():
        _link(root / block.shard, tars[tar], root)
    for folder in {(root / block.shard).parent for block in blocks}:
        sync_path(folder)
    schema = SEVERAL_LABELS_SCHEMA if contents.recipe.several_labels else ROWS_SCHEMA
    tables = (contents.read(number).select(schema.names).cast(schema) for number in range(len(tars)))
    rows = (batch for table in tables for batch in table.to_batches())
    shard_dir = create_shard_dir(root, contents.recipe, pa.RecordBatchReader.from_batches(schema, rows), work)
    write_rules(root, DuplicateRules(placeholder_urls=0), work)
    for block, tar in blocks.items():
        table = contents.read(tar)
        _write_parts(block, table.filter(pc.field("split") == block.split), root, work)
    return shard_dir


def _refuse_files(root: Path, blocks: Iterable[Block]) -> None:
    """Check that the folders of the links have no tars of their own.

    Raises:
        ShardsError: one has.
    """
    for folder in {(root / block.shard).parent for block in blocks}:
        file = next((path for path in folder.glob("*.tar") if not path.is_symlink()), None)
        if file:
            raise ShardsError(f"{file} is a file where links to the tars would be; use another --out, a new folder")


def _link(link: Path, tar: Path, root: Path) -> None:
    """Link to a tar: by a relative path if it is in DIR, so that DIR can be moved, and otherwise by an absolute one."""
    make_folder(link.parent)
    target = Path(os.path.abspath(tar))  # noqa: PTH100 -- links are kept
    is_inside = target.is_relative_to(os.path.abspath(root))  # noqa: PTH100
    link.symlink_to(os.path.relpath(target, link.absolute().parent) if is_inside else target)


def _write_parts(block: Block, samples: pa.Table, root: Path, work: Path) -> None:
    """Write a block's parts of the index and of the outcomes."""
    kept = samples.filter(pc.field("status") == Status.KEPT)
    kept = kept.append_column("shard", pa.array([block.shard] * len(kept), pa.string()))
    count = len(samples)
    constants: dict[str, pa.Array] = {
        "attempts": pa.array([0] * count),
        "seconds": pa.array([0.0] * count),
        "time": pa.array([dt.datetime.now(dt.UTC)] * count, pa.timestamp("ms", tz="UTC")),
        "bytes": samples.column("length"),
    }
    for name in ("http_status", "final_url", "duplicate_of"):
        constants[name] = pa.nulls(count)
    for name, values in constants.items():
        samples = samples.append_column(name, values)
    schema = index_schema(several_labels=LABELS.name in kept.column_names)
    parts = {block.index_part: (kept, schema), block.outcomes_part: (samples, OUTCOMES_SCHEMA)}
    for name, (table, schema) in parts.items():
        draft = work / "part.parquet"
        pq.write_table(table.select(schema.names).cast(schema), draft)
        publish_file(draft, root / name)


def _print_summary(console: Console, root: Path, contents: Contents, counts: Counter[str]) -> None:
    kept, classes = counts[Status.KEPT], len(contents.recipe.classes)
    splits = ", ".join(f"{split} {sum(rows):,}" for split, rows in contents.recipe.rows_of_tars.items())
    drawn = ", drawn at random" if contents.is_drawn else ""
    print_line(console, f"{root}: {counted(kept, 'picture')} of {counted(classes, 'class')}; splits: {splits}{drawn}")
    for status, count in counts.most_common():
        if status != Status.KEPT:
            print_line(console, f"not indexed: {count:,} {status}")
