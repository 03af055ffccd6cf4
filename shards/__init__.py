"""The data side: turns a list of image URLs and labels into WebDataset tar shards with Parquet records.

From Python, `assemble` makes a shard directory and `open_shards` reads one; everything else is behind the command line.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import ShardsError

if TYPE_CHECKING:
    from shards.dataset import ShardDataset, Transform

__all__ = ["ShardsError", "assemble", "open_shards"]


def assemble(source: str | Path | Sequence[str], out: str | Path, **settings: Any) -> dict[str, int]:  # noqa: ANN401 -- of AssembleConfig
    """Download or read the pictures of a list, and pack them into the folder `out`; an earlier call is continued.

    Args:
        source: what `--list` takes: a list's path or URL, a folder of pictures, hf:NAME, or several SPLIT=FILE.
        out: the folder of the shards, or s3://BUCKET/DIR.
        settings: as in `shards assemble --help`, such as images=2000 or encode_format="pixels".

    Returns:
        The number of pictures by what became of them, such as {"kept": 1890, "gone": 110}, the largest first; of a
        folder on this machine.

    Raises:
        ShardsError: the list or the machine is not as required, or no picture could be kept.
        ValueError: a setting has a value of the wrong type or out of range.
        TypeError: there is no such setting.
    """
    from rich.console import Console  # noqa: PLC0415 -- these load the crawler

    from shards.assembly.assemble import assemble as assemble_list  # noqa: PLC0415
    from shards.config.cli import check_assemble_config  # noqa: PLC0415
    from shards.format.outcomes import OUTCOMES_FILE, count_outcomes  # noqa: PLC0415

    lists = str(source) if isinstance(source, str | Path) else list(source)
    config = check_assemble_config({"list": lists, "out": Path(out), **settings})
    reason = assemble_list(config, Console(soft_wrap=True, stderr=True))
    if reason:
        raise ShardsError(reason)
    return count_outcomes(config.out / OUTCOMES_FILE)


def open_shards(root: str | Path, split: str = "train", transform: "Transform | None" = None) -> "ShardDataset":
    """Open a split of a shard directory as a dataset, whose pictures a DataLoader reads in any order.

    Args:
        root: the folder of the shards.
        split: train, test, or another split of the list.
        transform: what is done to each picture (a PIL image), for example by torchvision.transforms.v2.

    Raises:
        ShardsError: the folder isn't readable as shards, or has no such split.
    """
    from shards.dataset import ShardDataset  # noqa: PLC0415 -- Pillow, NumPy and pyarrow are not needed by every import
    from shards.format.index import ShardIndex  # noqa: PLC0415

    return ShardDataset(ShardIndex.load(Path(root)), split, transform)
