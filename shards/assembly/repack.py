"""Makes shards in another format from shards of originals, without downloads, equal to those of an assembly."""

import concurrent.futures
import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
from rich.console import Console

from shards.assembly.finalize import finalize, read_rules, write_rules
from shards.assembly.pack import PackJob, Results, load_block, pack_block, to_outcome
from shards.assembly.worker_pool import check_interrupt, hold_interrupts, packing_pool
from shards.config.schema import MAX_IMAGE_SIZE, count_processes
from shards.counted import counted
from shards.errors import ConfigError, ShardsError
from shards.format.outcomes import Status
from shards.format.parts import read_parts
from shards.location import refuse_url
from shards.progress import print_line, track_progress
from shards.storage.file_lock import exclusive_lock
from shards.storage.journal import recover_blocks
from shards.storage.shard_dir import ROWS_PATH, Block, ShardDir, create_shard_dir, load_shard_dir, read_part


@dataclasses.dataclass(frozen=True)
class RepackConfig:
    """The settings of `repack`.

    Attributes:
        dir: folder of shards of originals; it is only read.
        encode_format: pixels or jpg, as for `assemble`.
        out: folder of the new shards; by default DIR-pixels or DIR-jpg next to DIR.
        image_size: side in pixels of the resized pictures.
        workers: number of processes that decode and pack; -x means all cores but x.
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
            raise ConfigError("workers is 0; it must be a number of processes, or -x means the number of cores minus x")

    @property
    def target(self) -> Path:
        """Return the folder of the new shards."""
        source = self.dir.resolve()
        return self.out or source.with_name(f"{source.name}-{self.encode_format}")


def repack(config: RepackConfig, console: Console) -> None:
    """Make the new DIR, or update it; blocks that match the old DIR are skipped.

    Raises:
        ShardsError: the old DIR is damaged or has no originals, or the new one was made from something else.
    """
    source = load_shard_dir(config.dir)
    if source.recipe.encode_format != "original":
        raise ShardsError(
            f"{config.dir} has {source.recipe.encode_format} of {source.recipe.image_size} pixels a side, not "
            "originals; repack from originals, which assemble --encode_format original makes"
        )
    refuse_url(config.target)
    if config.target.resolve() == config.dir.resolve():
        raise ShardsError(f"--out {config.target} is the folder of the originals; give another folder")
    with exclusive_lock(config.target) as work:
        target = _open(source, config, work)
        write_rules(target.root, read_rules(source.root), work)
        recover_blocks(target.root, target.blocks())
        ready = [block for block in source.blocks() if source.is_committed(block)]
        stale = [block for block in ready if not _is_current(source, target, block)]
        workers = count_processes(config.workers)
        blocks = counted(len(source.blocks()), "block")
        print_line(console, f"Repacking {len(stale)} of {blocks} with {counted(workers, 'worker')}...")
        _pack_blocks(stale, source, target, work, workers, console)
        kept = finalize(target, work)[Status.KEPT]
    print_line(console, f"{config.target}: {counted(kept, 'picture')} as {config.encode_format}")
    if len(ready) < len(source.blocks()):
        missing = len(source.blocks()) - len(ready)
        print_line(
            console,
            f"{config.dir} still lacks {counted(missing, 'block')}; once assemble has made them, run repack again",
        )


def _open(source: ShardDir, config: RepackConfig, work: Path) -> ShardDir:
    """Return the new DIR with all rows of the old one, which may have grown since the last time.

    Raises:
        ShardsError: the new DIR was made from something else.
    """
    recipe = dataclasses.replace(
        source.recipe, encode_format=config.encode_format, image_size=config.image_size, indexed=False
    )
    if (config.target / ROWS_PATH).is_file():
        found = load_shard_dir(config.target)
        difference = found.recipe.difference(recipe)
        if difference is None and not _begins_with(config.dir / ROWS_PATH, config.target / ROWS_PATH):
            difference = f"other rows than {config.dir} has"
        if difference:
            raise ShardsError(f"{config.target} was made from {difference}; use another --out")
        if found.recipe == recipe and len(found) == len(source):
            return found
    return create_shard_dir(config.target, recipe, source.row_file.to_reader(), work)


def _begins_with(path: Path, beginning: Path) -> bool:
    """Check whether the first rows of a file are those of another."""
    parts, rest = read_parts(path), None
    for wanted in read_parts(beginning):
        rest = wanted.slice(0, 0) if rest is None else rest
        while len(rest) < len(wanted) and (part := next(parts, None)) is not None:
            rest = pa.concat_tables([rest, part])
        if not rest.slice(0, len(wanted)).equals(wanted):
            return False
        rest = rest.slice(len(wanted))
    return True


def _is_current(source: ShardDir, target: ShardDir, block: Block) -> bool:
    """Whether the target's block was packed from the source's current block."""
    if not target.is_committed(block):
        return False
    old, new = (read_part(shard_dir.root, block.outcomes_part) for shard_dir in (source, target))
    return old.equals(new)


def _pack_blocks(
    blocks: list[Block], source: ShardDir, target: ShardDir, work: Path, workers: int, console: Console
) -> None:
    if not blocks:
        return
    with packing_pool(min(workers, len(blocks))) as pool:
        with hold_interrupts():
            packing = [pool.submit(_pack_block, block, source.root, target.root, work) for block in blocks]
        for done in track_progress(concurrent.futures.as_completed(packing), len(packing), "blocks repacked", console):
            done.result()
            check_interrupt()


def _pack_block(block: Block, source: Path, target: Path, work: Path) -> None:
    """Pack a block of `target` from the originals in `source`.

    Raises:
        ShardsError: the block of originals is incomplete or damaged.
    """
    shard_dir, folder = _load(target), work / block.shard.replace("/", "-")
    folder.mkdir()
    results, is_committed = _read_results(source, block, folder), shard_dir.committed_rows(block) > 0
    pack_block(PackJob.create(shard_dir, block, folder, results, is_committed=is_committed, is_trusted=True))
    shutil.rmtree(folder)


_load = functools.cache(load_shard_dir)  # once in each worker process


def _read_results(source: Path, block: Block, folder: Path) -> Results:
    """Return a block's outcomes, with its pictures as files in `folder`, as if they had just been downloaded."""
    loaded = load_block(source, block)
    results: Results = {}
    for row, outcome in loaded.outcomes.items():
        member = loaded.member(row)
        if (member is not None) != (outcome["status"] == Status.KEPT):
            raise ShardsError(
                f"{source}: {block.index_part} and {block.outcomes_part} differ at {outcome['key']}; "
                f"for details run: shards verify {source}"
            )
        path = None
        if member is not None:
            path = folder / str(row)
            path.write_bytes(member.body)
        results[row] = (to_outcome(outcome), path)
    return results
