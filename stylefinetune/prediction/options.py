"""The flags that predict and features share: which pictures are read, and how."""

import os
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stylefinetune.errors import UserError
from stylefinetune.prediction.loader import PictureLoader
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.pictures import FetchLimits

INPUT_HELP = """INPUT is a picture, a folder, a pattern in quotes, an http or https URL, a list with a column of paths
or URLs (.csv, .tsv, .jsonl, .parquet), a shard directory, or - for a path or a URL on each line of stdin."""
_MOST_THREADS = 16  # by default


def add_picture_options(parser: ArgumentParser) -> None:
    """Add the flags of the pictures."""
    parser.add_argument("--split", help="of shards: read this split instead of all pictures")
    parser.add_argument("--column", help="of lists: the column with paths or URLs (default: path, image_url, url, ...)")
    parser.add_argument("--batch_size", type=int, help="pictures processed together (default: as in the run's tests)")
    parser.add_argument("--workers", type=int, help="threads that decode (default: one for each core, at most 16)")
    limits = FetchLimits()
    parser.add_argument("--timeout", type=float, default=limits.seconds, help="of URLs: seconds for a whole response")
    parser.add_argument("--max_bytes", type=int, default=limits.max_bytes, help="of URLs: largest response, in bytes")
    parser.add_argument(
        "--allow_private", action="store_true", help="of URLs: also fetch from servers in private networks"
    )


def check_picture_options(options: Namespace) -> None:
    """Check their values.

    Raises:
        UserError: one is out of range.
    """
    for name in ("batch_size", "workers", "timeout", "max_bytes"):
        value = options[name]
        if value is not None and not value > 0:
            raise UserError(f"--{name} is {value:g}; it must be above 0")


def check_out(out: Path | None, inputs: list[str]) -> None:
    """Check that the results replace no input.

    Raises:
        UserError: they would.
    """
    if out is None or not out.exists():
        return
    if any(os.path.exists(name) and out.samefile(name) for name in inputs):  # noqa: PTH110 -- also for long URLs
        raise UserError(f"--out is {out}, which is also an input; give another file")


def open_loader(options: Namespace, network: PictureNetwork) -> PictureLoader:
    """Return what reads the pictures as the network needs them."""
    batch_size = options.batch_size or network.saved.config.data.phase(training=False).batch_size
    workers = options.workers or min(os.cpu_count() or 1, _MOST_THREADS)
    limits = FetchLimits(options.timeout, options.max_bytes, options.allow_private)
    return PictureLoader(network.size, network.fit, batch_size, workers, limits)
