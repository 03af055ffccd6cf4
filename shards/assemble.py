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

from shards import growth, journal, merge, opening, retry, sources, urls
from shards.blocks import Block, Recipe, ShardDir
from shards.config import AssembleConfig
from shards.download import Downloader
from shards.finalize import finalize, store_rules
from shards.index import ShardsError
from shards.opening import Opened
from shards.outcomes import Status
from shards.pipeline import Pipeline, Todo
from shards.progress import Meter
from shards.recurrence import Rules
from shards.sources import Source
from shards.workers import packing_pool


def assemble(config: AssembleConfig, console: Console) -> None:
    """Makes DIR from the list, or goes on where an earlier assembly stopped, and tells the console.

    Raises:
        ShardsError: the list, DIR or the machine is not as it must be; DIR is left so that the same command goes on.
    """
    if config.retry is not None:
        retry.parse(config.retry)  # refuses what isn't one, before anything is made
    source = sources.read_source(list(config.lists))
    recipe, choice = _read_recipe(config, source)
    rules = Rules(0 if source.is_local else config.placeholder_urls, config.drop_duplicates)
    partition = config.share
    plan, stage = repr((recipe, rules)), config.stage
    with (
        _full_disk_told(opening.root_of(config.out, partition, stage)),
        opening.opened(config.out, partition, plan, stage, keep_stage=config.keep_stage) as place,
    ):
        shard_dir = growth.open_or_create(place.root, recipe, place.work, source, choice)
        store_rules(place.root, rules, place.work)
        counts = _do_share(config, place, shard_dir, console, is_local=source.is_local)
    _tell(console, counts)
    if partition:
        command = f"python -m shards merge {shlex.quote(place.name)}"
        _say(console, f"Partition {config.partition} is done; when all {partition.count} are: {command}")


def _do_share(
    config: AssembleConfig, place: Opened, shard_dir: ShardDir, console: Console, *, is_local: bool
) -> collections.Counter[str]:
    """Makes all blocks of this process's share that aren't there, and returns how many rows came to what."""
    root, work, store, partition = place.root, place.work, place.storage, config.share
    task = f"-{partition.index}-of-{partition.count}" if partition else ""
    share = merge.share_of(shard_dir, partition)
    journal.recover(root, share)
    merge.begin(root, partition, work)
    again = retry.begin(root, config.retry, work, task)
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
        _run(config, shard_dir, todo, place, Meter(console, images), is_local=is_local)
    counts = merge.count_share(shard_dir, share) if partition else finalize(shard_dir, work, store)
    retry.end(root, task)
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


def _plan(shard_dir: ShardDir, share: Iterable[Block], again: retry.Retry | None) -> list[Todo]:
    """Returns those blocks that lack rows, or have rows to be asked for again."""
    todo: list[Todo] = []
    for block in share:
        committed, size = shard_dir.committed_rows(block), shard_dir.size_of(block)
        old = again.places(shard_dir.root, block) if again and committed else []
        places = [*old, *range(committed, size)] if old else range(committed, size)
        if places:
            todo.append(Todo(block, places, is_committed=committed > 0))
    return todo


def _read_recipe(config: AssembleConfig, source: Source) -> tuple[Recipe, urls.Choice]:
    classes = urls.read_classes(config.classes)
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
    return recipe, urls.Choice(config.images, config.seed, config.labels, classes, config.test_share, config.split)


def _run(
    config: AssembleConfig, shard_dir: ShardDir, todo: list[Todo], place: Opened, meter: Meter, *, is_local: bool
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
