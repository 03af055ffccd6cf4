"""The committed blocks' parts -> index.parquet and outcomes.parquet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards import index, outcomes
from shards.blocks import ShardDir, publish
from shards.index import IndexMetadata


def finalize(shard_dir: ShardDir, work: Path) -> pa.Table:
    """Joins the parts of all committed blocks, in block order, and returns the ledger (`outcomes.SCHEMA`).

    Equal parts give equal files, whoever wrote them and in whatever order.

    Args:
        shard_dir: DIR.
        work: a folder for temporary files, of DIR's file system.
    """
    root, recipe = shard_dir.root, shard_dir.recipe
    blocks = [block for block in shard_dir.blocks() if shard_dir.is_committed(block)]
    entries = [pq.read_table(root / block.index_part) for block in blocks]
    ledger = [pq.read_table(root / block.outcomes_part) for block in blocks]
    metadata = IndexMetadata(
        classes=recipe.classes,
        encode_format=recipe.encode_format,
        image_size=recipe.image_size,
        list_sha256=recipe.list_sha256,
        seed=recipe.seed,
    )
    index.write_index(work / index.FILE_NAME, pa.concat_tables([index.SCHEMA.empty_table(), *entries]), metadata)
    joined = pa.concat_tables([outcomes.SCHEMA.empty_table(), *ledger])
    pq.write_table(joined, work / outcomes.FILE_NAME)
    # The ledger last: where it is there, so is the index it speaks of.
    publish(work / index.FILE_NAME, root / index.FILE_NAME)
    publish(work / outcomes.FILE_NAME, root / outcomes.FILE_NAME)
    return joined
