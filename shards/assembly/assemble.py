"""Assembles a list into DIR: plans the blocks to make, runs the pipeline, and prints a summary."""

import collections
import contextlib
import dataclasses
import shlex
from collections.abc import Generator, Iterable
from pathlib import Path

import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from shards.assembly.deduplicate import DuplicateRules
from shards.assembly.finalize import finalize, write_rules
from shards.assembly.partition import blocks_of_partition, count_partition, register_partition
from shards.assembly.pipeline import BlockTask, Pipeline
from shards.assembly.retry import Retry, begin_retry, end_retry, parse_statuses
from shards.assembly.row_order import open_or_create
from shards.assembly.worker_pool import packing_pool
from shards.config.recipe import Recipe
from shards.config.schema import DEFAULT_LABEL_COL, DEFAULT_URL_COL, AssembleConfig, count_processes, suffix_of
from shards.counted import counted
from shards.download.downloader import Downloader
from shards.download.proxies import Proxies
from shards.errors import ShardsError
from shards.files import is_full_disk
from shards.format.index import LABELS
from shards.format.outcomes import OUTCOMES_FILE, Status
from shards.local.class_folders import FolderRules
from shards.local.hf_dataset import DatasetRules
from shards.local.parquet_pictures import ParquetPictures
from shards.local.picture_files import LocalPictures, PictureFiles
from shards.local.splits import split_of
from shards.progress import ProgressLine, print_line
from shards.storage.journal import recover_blocks
from shards.storage.session import ShardSession, local_root, open_session
from shards.storage.shard_dir import Block, ShardDir, read_part
from shards.tracking.tracker import CrawlTracker, check_wandb, track_crawl
from shards.url_list.labels import doubtful_classes, read_classes
from shards.url_list.source import Source, read_source


def assemble(config: AssembleConfig, console: Console) -> str | None:
    """Make DIR from the list, or resume an earlier assembly, and print the progress on the console.

    Returns:
        Why DIR has no picture, in one line; None if it has one, or if only a partition was made.

    Raises:
        ShardsError: the list, DIR or the machine is not as required; the same command can resume from DIR.
    """
    if config.retry is not None:
        parse_statuses(config.retry)  # an invalid value is refused before anything is created
    check_wandb(config)
    source = _read_list(config, console)
    recipe = _read_recipe(config, source)
    rules = DuplicateRules(0 if source.is_local else config.placeholder_urls, config.drop_duplicates)
    partition = config.block_partition
    plan, stage = repr((recipe, rules)), config.stage
    with (
        _full_disk_error(local_root(config.out, partition, stage)),
        open_session(config.out, partition, plan, stage, keep_stage=config.keep_stage) as session,
    ):
        shard_dir = open_or_create(session.root, recipe, session.work, source)
        warning = None if source.is_local else Proxies.read(config).warning()
        if warning:
            print_line(console, f"warning: {warning}")
        write_rules(session.root, rules, session.work)
        with track_crawl(config, session, recipe, console) as tracker:
            counts = _make_blocks(config, session, shard_dir, console, _open_local(source), tracker)
        reason = None if counts[Status.KEPT] or partition else _explain_empty(session, counts)
        doubts = _find_doubts(shard_dir, source)
    _print_summary(console, counts, is_local=source.is_local)
    for line in doubts:
        print_line(console, f"warning: {source.name}: {line}")
    if partition:
        command = f"shards merge {shlex.quote(session.name)}"
        print_line(
            console,
            f"Partition {config.partition} is complete. When all {partition.count} partitions are, run: {command}",
        )
    return reason


def _explain_empty(session: ShardSession, counts: collections.Counter[str]) -> str:
    """Return why none of the rows was kept, with the message of the first row of the most common status."""
    shown = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    outcomes = read_part(session.root, OUTCOMES_FILE, ["image_url", "status", "message"])
    first = outcomes.filter(pc.field("status") == counts.most_common(1)[0][0]).slice(0, 1).to_pylist()[0]
    example = f"{first['image_url']}: {first['message']}" if first["message"] else first["image_url"]
    return f"{session.name} has no picture: none of the {counts.total()} rows was kept ({shown}; for example {example})"


def _make_blocks(
    config: AssembleConfig,
    session: ShardSession,
    shard_dir: ShardDir,
    console: Console,
    local: LocalPictures | None,
    tracker: CrawlTracker | None,
) -> collections.Counter[str]:
    """Make all missing blocks of this process's partition, and return the number of rows by status."""
    root, work, remote, partition = session.root, session.work, session.remote, config.block_partition
    suffix = suffix_of(partition)
    blocks = blocks_of_partition(shard_dir, partition)
    recover_blocks(root, blocks)
    register_partition(root, partition, work)
    retry = begin_retry(root, config.retry, work, suffix)
    if remote:
        shard_dir = dataclasses.replace(shard_dir, tars=remote.tars)
        remote.recover(blocks)
        remote.put_state_files()
        config = dataclasses.replace(config, out=work)  # the folder to name if aria2c can't write
    tasks = _plan_tasks(shard_dir, blocks, retry)
    images, total = sum(len(task.positions) for task in tasks), sum(map(shard_dir.size_of, blocks))
    activity = "packing" if local else "downloading"
    count, workers = counted(images, "image"), counted(count_processes(config.workers), "worker")
    print_line(console, f"{activity.capitalize()} {count} with {workers}...")
    if images < total:
        print_line(console, f"{total - images} of {total} were done before; resuming in {session.name}")
    if tracker:
        tracker.begin(_count_done(shard_dir, blocks, tasks), total)
    if tasks:
        progress = ProgressLine(console, images, activity, tracker.update if tracker else None)
        with (
            packing_pool(min(count_processes(config.workers), len(tasks))) as pool,
            Downloader(config, work) as downloader,
            progress,
        ):
            Pipeline(config, shard_dir, session, pool, downloader, progress, local).run(tasks)
    counts = count_partition(shard_dir, blocks) if partition else finalize(shard_dir, work, remote)
    end_retry(root, suffix)
    if remote:
        remote.put_state_files()
    if tracker:
        tracker.finish(counts)
    return counts


@contextlib.contextmanager
def _full_disk_error(root: Path) -> Generator[None]:
    """Raise a full disk's OSError as a ShardsError."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise ShardsError(f"{root}: the disk is full; free some space and run the same command again") from error


def _plan_tasks(shard_dir: ShardDir, blocks: Iterable[Block], retry: Retry | None) -> list[BlockTask]:
    """Return a task for each block that has missing rows or rows to retry."""
    tasks: list[BlockTask] = []
    for block in blocks:
        committed, size = shard_dir.committed_rows(block), shard_dir.size_of(block)
        retried = retry.positions(shard_dir.root, block) if retry and committed else []
        positions = [*retried, *range(committed, size)] if retried else range(committed, size)
        if positions:
            tasks.append(BlockTask(block, positions, is_committed=committed > 0))
    return tasks


def _count_done(shard_dir: ShardDir, blocks: Iterable[Block], tasks: Iterable[BlockTask]) -> collections.Counter[str]:
    """Count the committed rows by status, without those that are requested again."""
    counts: collections.Counter[str] = collections.Counter()
    again = {task.block: set(task.positions) for task in tasks}
    for block in blocks:
        committed = shard_dir.committed_rows(block)
        if committed:
            found = read_part(shard_dir.root, block.outcomes_part, ["status"]).column("status").to_pylist()
            positions = again.get(block, set())
            counts.update(status for position, status in enumerate(found[:committed]) if position not in positions)
    return counts


def _read_list(config: AssembleConfig, console: Console) -> Source:
    has_labels = config.label_col is not None
    rules = FolderRules(config.seed, config.test_share, config.follow_links, has_labels=has_labels)
    dataset_rules = DatasetRules(
        picture_column=None if config.url_col == DEFAULT_URL_COL else config.url_col,
        label_column=None if config.label_col == DEFAULT_LABEL_COL else config.label_col,
        has_labels=has_labels,
    )
    source = read_source(
        list(config.lists), config.max_list_bytes, local=config.local, folder_rules=rules, dataset_rules=dataset_rules
    )
    for line in source.warnings:
        print_line(console, f"warning: {source.name}: {line}")
    return source


def _open_local(source: Source) -> LocalPictures | None:
    """Return the local pictures of a list; None for a list of URLs."""
    if source.base and source.picture_column:
        return ParquetPictures(source.base, source.picture_column)
    return PictureFiles(source.base or Path()) if source.is_local else None  # Caffe's: from the working folder


def _read_recipe(config: AssembleConfig, source: Source) -> Recipe:
    url_col, label_col = config.url_col, config.label_col
    if source.picture_column:  # the list that was made from the dataset
        url_col, label_col = DEFAULT_URL_COL, label_col and DEFAULT_LABEL_COL
    return Recipe(
        list_sha256=source.sha256,
        images=config.images,
        seed=config.seed,
        labels=config.labels,
        test_share=config.test_share,
        encode_format=config.encode_format,
        image_size=0 if config.encode_format == "original" else config.image_size,
        rows_per_shard=config.rows_per_shard,
        classes=read_classes(config.classes) or source.classes,
        split=config.split,
        url_col=url_col,
        label_col=label_col,
        local=source.base is not None,
        label_separator=config.label_separator,
    )


def _find_doubts(shard_dir: ShardDir, source: Source) -> list[str]:
    """Return warnings about classes and splits that are probably mistakes in the list, a line each."""
    used = None
    train = shard_dir.positions.get("train")
    if train is not None:
        are_lists = shard_dir.recipe.several_labels
        column = LABELS.name if are_lists else "label"
        labels = shard_dir.row_file.read([column]).column(column).take(train).combine_chunks()
        used = set((labels.flatten() if are_lists else labels).unique().to_pylist())
    known = {split: split_of(split) for split in shard_dir.positions}
    splits = [
        f"its split {split} isn't the split {usual}, which training reads by default; rename it if it should be"
        for split, usual in known.items()
        if usual in {"train", "test"} and split != usual
    ]
    if list(known) == ["train"] and shard_dir.recipe.label_col is not None and not source.is_caffe:
        splits.append("all pictures are in the split train; to train without tests, give --data.test.split ''")
    return [*splits, *doubtful_classes(shard_dir.recipe.classes, used)]


def _print_summary(console: Console, counts: collections.Counter[str], *, is_local: bool) -> None:
    total, kept = counts.total(), counts.pop(Status.KEPT, 0)
    caffes = f"Writing train/val for {kept} successfully downloaded images."  # what assemble_data.py prints
    print_line(console, f"Packed {kept} of {total} images." if is_local else caffes)
    if counts:
        table = Table("other outcomes", "images", box=None, header_style="", pad_edge=False)
        for status, count in counts.most_common():
            table.add_row(status, str(count))
        console.print(table)
