"""The committed blocks' parts -> index.parquet and outcomes.parquet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards import index, outcomes
from shards.blocks import ShardDir, publish
from shards.index import IndexMetadata, ShardsError
from shards.outcomes import Status

KEPT = str(Status.KEPT)


def finalize(shard_dir: ShardDir, work: Path) -> pa.Table:
    """Joins the parts of all committed blocks, in block order, and returns the ledger (`outcomes.SCHEMA`).

    Equal parts give equal files, whoever wrote them and in whatever order.

    Args:
        shard_dir: DIR.
        work: a folder for temporary files, of DIR's file system.

    Raises:
        ShardsError: a part can't be read.
    """
    root, recipe = shard_dir.root, shard_dir.recipe
    blocks = [block for block in shard_dir.blocks() if shard_dir.is_committed(block)]
    entries = [_read_part(root, block.index_part) for block in blocks]
    ledger = [_read_part(root, block.outcomes_part) for block in blocks]
    metadata = IndexMetadata(
        classes=recipe.classes,
        encode_format=recipe.encode_format,
        image_size=recipe.image_size,
        list_sha256=recipe.list_sha256,
        seed=recipe.seed,
    )
    index.write_index(work / index.FILE_NAME, pa.concat_tables([index.SCHEMA.empty_table(), *entries]), metadata)
    joined = _name_duplicates(pa.concat_tables([outcomes.SCHEMA.empty_table(), *ledger]))
    pq.write_table(joined, work / outcomes.FILE_NAME)
    # The ledger last: where it is there, so is the index it speaks of.
    publish(work / index.FILE_NAME, root / index.FILE_NAME)
    publish(work / outcomes.FILE_NAME, root / outcomes.FILE_NAME)
    return joined


def _read_part(root: Path, name: str) -> pa.Table:
    path = root / name
    try:
        return pq.read_table(path)
    except (OSError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
        reason = str(error).splitlines()[0]
        raise ShardsError(
            f"{path} can't be read ({reason}); remove it, and the assemble command makes its block again"
        ) from error


def _name_duplicates(ledger: pa.Table) -> pa.Table:
    """Fills duplicate_of: for every kept picture but the first in the list of those with its bytes, that one's row."""
    rows, hashes, statuses = (ledger.column(name).to_pylist() for name in ("row", "sha256", "status"))
    kept = sorted((row, digest) for row, digest, status in zip(rows, hashes, statuses, strict=True) if status == KEPT)
    first: dict[str, int] = {}
    for row, digest in kept:
        first.setdefault(digest, row)
    duplicate_of = [
        first[digest] if status == KEPT and first[digest] != row else None
        for row, digest, status in zip(rows, hashes, statuses, strict=True)
    ]
    place = ledger.schema.get_field_index("duplicate_of")
    return ledger.set_column(place, ledger.schema.field(place), pa.array(duplicate_of, pa.int64()))
