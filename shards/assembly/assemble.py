"""From a list to its DIR: what is to be done, that it is done by one process at a time, and what came of it."""

import collections
import contextlib
import dataclasses
import errno
import shlex
from collections.abc import Generator, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shards.assembly.deduplicate import DuplicateRules
from shards.assembly.finalize import finalize, write_rules
from shards.assembly.partition import blocks_of_partition, count_partition, register_partition
from shards.assembly.pipeline import BlockTask, Pipeline
from shards.assembly.retry import Retry, begin_retry, end_retry, parse_statuses
from shards.assembly.row_order import open_or_create
from shards.assembly.worker_pool import packing_pool
from shards.config.schema import AssembleConfig
from shards.download.downloader import Downloader
from shards.errors import ShardsError
from shards.format.outcomes import Status
from shards.progress import ProgressLine
from shards.storage.journal import recover_blocks
from shards.storage.session import ShardSession, local_root, open_session
from shards.storage.shard_dir import Block, Recipe, ShardDir
from shards.url_list.select import Selection, read_classes
from shards.url_list.source import Source, read_source


def assemble(config: AssembleConfig, console: Console) -> None:
    """Makes DIR from the list, or goes on where an earlier assembly stopped, and tells the console.

    Raises:
        ShardsError: the list, DIR or the machine is not as it must be; DIR is left so that the same command goes on.
    """
    if config.retry is not None:
        parse_statuses(config.retry)  # refuses what isn't one, before anything is made
    source = read_source(list(config.lists))
    recipe, choice = _read_recipe(config, source)
    rules = DuplicateRules(0 if source.is_local else config.placeholder_urls, config.drop_duplicates)
    partition = config.share
    plan, stage = repr((recipe, rules)), config.stage
    with (
        _full_disk_told(local_root(config.out, partition, stage)),
        open_session(config.out, partition, plan, stage, keep_stage=config.keep_stage) as place,
    ):
        shard_dir = open_or_create(place.root, recipe, place.work, source, choice)
        write_rules(place.root, rules, place.work)
        counts = _do_share(config, place, shard_dir, console, is_local=source.is_local)
    _tell(console, counts)
    if partition:
        command = f"python -m shards merge {shlex.quote(place.name)}"
        _say(console, f"Partition {config.partition} is done; when all {partition.count} are: {command}")


def _do_share(
    config: AssembleConfig, place: ShardSession, shard_dir: ShardDir, console: Console, *, is_local: bool
) -> collections.Counter[str]:
    """Makes all blocks of this process's share that aren't there, and returns how many rows came to what."""
    root, work, store, partition = place.root, place.work, place.storage, config.share
    task = f"-{partition.index}-of-{partition.count}" if partition else ""
    share = blocks_of_partition(shard_dir, partition)
    recover_blocks(root, share)
    register_partition(root, partition, work)
    again = begin_retry(root, config.retry, work, task)
    if store:
        shard_dir = dataclasses.replace(shard_dir, tars=store.tars)
        store.recover(share)
        store.put_states()
        config = dataclasses.replace(config, out=work)  # what aria2c can't write is here
    todo = _plan(shard_dir, share, again)
    images, total = sum(len(each.places) for each in todo), sum(map(shard_dir.size_of, share))
    _say(console, f"Downloading {images} images with {config.worker_count} workers...")
    if images < total:
        _say(console, f"{total - images} of {total} were done before; going on in {place.name}")
    if todo:
        _run(config, shard_dir, todo, place, ProgressLine(console, images), is_local=is_local)
    counts = count_partition(shard_dir, share) if partition else finalize(shard_dir, work, store)
    end_retry(root, task)
    if store:
        store.put_states()
    return counts


@contextlib.contextmanager
def _full_disk_told(root: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise ShardsError(
            f"{root}: the disk is full; what was packed is whole, and once there is room the same command goes on"
        ) from error


def _plan(shard_dir: ShardDir, share: Iterable[Block], again: Retry | None) -> list[BlockTask]:
    """Returns those blocks that lack rows, or have rows to be asked for again."""
    todo: list[BlockTask] = []
    for block in share:
        committed, size = shard_dir.committed_rows(block), shard_dir.size_of(block)
        old = again.places(shard_dir.root, block) if again and committed else []
        places = [*old, *range(committed, size)] if old else range(committed, size)
        if places:
            todo.append(BlockTask(block, places, is_committed=committed > 0))
    return todo


def _read_recipe(config: AssembleConfig, source: Source) -> tuple[Recipe, Selection]:
    classes = read_classes(config.classes)
    recipe = Recipe(
        list_sha256=source.sha256,
        images=config.images,
        seed=config.seed,
        labels=config.labels,
        test_share=config.test_share,
        encode_format=config.encode_format,
        image_size=0 if config.encode_format == "original" else config.image_size,
        rows_per_shard=config.rows_per_shard,
        classes=classes or (),
        split=config.split,
    )
    return recipe, Selection(config.images, config.seed, config.labels, classes, config.test_share, config.split)


def _run(
    config: AssembleConfig,
    shard_dir: ShardDir,
    todo: list[BlockTask],
    place: ShardSession,
    meter: ProgressLine,
    *,
    is_local: bool,
) -> None:
    with (
        packing_pool(min(config.worker_count, len(todo))) as pool,
        Downloader(config, place.work) as downloader,
        meter,
    ):
        Pipeline(config, shard_dir, place, pool, downloader, meter, is_local=is_local).run(todo)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _tell(console: Console, counts: collections.Counter[str]) -> None:
    kept = counts.pop(Status.KEPT, 0)
    _say(console, f"Writing train/val for {kept} successfully downloaded images.")
    if counts:
        table = Table("what became of the rest", "images", box=None, header_style="", pad_edge=False)
        for status, count in counts.most_common():
            table.add_row(status, str(count))
        console.print(table)
