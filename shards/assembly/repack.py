"""Shards of originals -> shards of another form, without the network: what assembling them so would have made."""

import concurrent.futures
import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Literal

from rich.console import Console

from shards.assembly.finalize import finalize, read_rules, write_rules
from shards.assembly.pack import PackJob, load_block, pack_block
from shards.assembly.worker_pool import check_interrupt, hold_interrupts, packing_pool
from shards.config.schema import MAX_IMAGE_SIZE, count_processes
from shards.errors import ConfigError, ShardsError
from shards.format.outcomes import Outcome, Status
from shards.location import refuse_url
from shards.progress import watch
from shards.storage.file_lock import exclusive_lock
from shards.storage.journal import recover_blocks
from shards.storage.shard_dir import Block, ShardDir, create_shard_dir, load_shard_dir, read_part, shard_dir_exists


@dataclasses.dataclass(frozen=True)
class RepackConfig:
    """A repacking: from where, into what.

    Attributes:
        dir: folder of shards of originals; it is only read.
        encode_format: pixels or jpg, as `assemble` has them.
        out: folder of the new shards; beside DIR, as DIR-pixels or DIR-jpg, unless given.
        image_size: side in pixels of the resized pictures.
        workers: processes that decode and pack; -x is all cores but x.
    """

    dir: Path
    encode_format: Literal["pixels", "jpg"]
    out: Path | None = None
    image_size: int = 256
    workers: int = -1

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ConfigError(f"image_size is {self.image_size}; it must be at least 1 and at most {MAX_IMAGE_SIZE}")
        if self.workers == 0:
            raise ConfigError("workers is 0; it must be a number of processes, or -x for all cores but x")

    @property
    def target(self) -> Path:
        """Returns the folder of the new shards."""
        source = self.dir.resolve()
        return self.out or source.with_name(f"{source.name}-{self.encode_format}")


@dataclasses.dataclass(frozen=True)
class _Work:
    """A block to be packed anew, as a worker is told of it."""

    source: Path
    root: Path
    folder: Path
    block: Block
    encode_format: str
    image_size: int
    is_committed: bool


def repack(config: RepackConfig, console: Console) -> None:
    """Makes the new DIR, or goes on with it: blocks that are as the old DIR has them are left alone.

    Raises:
        ShardsError: the old DIR is damaged, or holds no originals, or the new one is of something else.
    """
    source = load_shard_dir(config.dir)
    if source.recipe.encode_format != "original":
        raise ShardsError(
            f"{config.dir} holds {source.recipe.encode_format} of {source.recipe.image_size} pixels a side, no "
            "originals; repack from those, or assemble with --encode_format original"
        )
    refuse_url(config.target)
    if config.target.resolve() == config.dir.resolve():
        raise ShardsError(f"--out {config.target} is the folder of the originals; give another")
    with exclusive_lock(config.target) as work:
        target = _open(source, config, work)
        write_rules(target.root, read_rules(source.root), work)
        recover_blocks(target.root, target.blocks())
        ready = [block for block in source.blocks() if source.is_committed(block)]
        stale = [block for block in ready if not _is_current(source, target, block)]
        workers = count_processes(config.workers)
        _say(console, f"Repacking {len(stale)} of {len(source.blocks())} blocks with {workers} workers...")
        _run(
            [
                _Work(
                    source=source.root,
                    root=target.root,
                    folder=work / block.shard.replace("/", "-"),
                    block=block,
                    encode_format=config.encode_format,
                    image_size=config.image_size,
                    is_committed=target.committed_rows(block) > 0,
                )
                for block in stale
            ],
            workers,
            console,
        )
        kept = finalize(target, work)[Status.KEPT]
    _say(console, f"{config.target}: {kept} pictures as {config.encode_format}")
    if len(ready) < len(source.blocks()):
        missing = len(source.blocks()) - len(ready)
        _say(console, f"{config.dir} lacks {missing} blocks yet; once assemble has made them, repack adds them")


def _open(source: ShardDir, config: RepackConfig, work: Path) -> ShardDir:
    """Returns the new DIR with the rows of the old one, which may have grown since.

    Raises:
        ShardsError: it is of something else.
    """
    recipe = dataclasses.replace(source.recipe, encode_format=config.encode_format, image_size=config.image_size)
    if shard_dir_exists(config.target):
        found = load_shard_dir(config.target)
        difference = found.recipe.difference(recipe)
        if difference is None and not found.rows.equals(source.rows.slice(0, len(found.rows))):
            difference = f"other rows than {config.dir} has"
        if difference:
            raise ShardsError(f"{config.target} was made from {difference}; use another --out")
        if found.recipe == recipe and len(found.rows) == len(source.rows):
            return found
    return create_shard_dir(config.target, recipe, source.rows, work)


def _is_current(source: ShardDir, target: ShardDir, block: Block) -> bool:
    """Tells whether the block has been packed from just what the old DIR has."""
    if not target.is_committed(block):
        return False
    ledgers = [read_part(shard_dir.root, block.outcomes_part) for shard_dir in (source, target)]
    return ledgers[0].equals(ledgers[1])


def _run(works: list[_Work], workers: int, console: Console) -> None:
    if not works:
        return
    with packing_pool(min(workers, len(works))) as pool:
        with hold_interrupts():
            packing = [pool.submit(_repack_block, work) for work in works]
        for done in watch(concurrent.futures.as_completed(packing), len(packing), "blocks repacked", console):
            done.result()
            check_interrupt()


def _repack_block(work: _Work) -> None:
    """Packs one block from the old one's bodies.

    Raises:
        ShardsError: the old one isn't whole.
    """
    work.folder.mkdir()
    pack_block(
        PackJob(
            root=work.root,
            work=work.folder,
            block=work.block,
            rows=_load(work.source).rows_of(work.block),
            arrivals=_read_arrivals(work),
            encode_format=work.encode_format,
            image_size=work.image_size,
            is_committed=work.is_committed,
        )
    )
    shutil.rmtree(work.folder)


_load = functools.cache(load_shard_dir)  # once in each worker


def _read_arrivals(work: _Work) -> dict[int, tuple[Outcome, Path | None]]:
    """Returns what the old block has of each row, its pictures as files, as if they had just been downloaded."""
    held = load_block(work.source, work.block)
    fields = [field.name for field in dataclasses.fields(Outcome)]
    arrivals: dict[int, tuple[Outcome, Path | None]] = {}
    for row, line in held.ledger.items():
        member = held.member(row)
        if (member is not None) != (line["status"] == Status.KEPT):
            raise ShardsError(
                f"{work.source}: {work.block.index_part} and {work.block.outcomes_part} differ at {line['key']}; "
                f"for more: python -m shards verify {work.source}"
            )
        path = None
        if member is not None:
            path = work.folder / str(row)
            path.write_bytes(member.body)
        arrivals[row] = (Outcome(**{name: line[name] for name in fields}), path)
    return arrivals


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
