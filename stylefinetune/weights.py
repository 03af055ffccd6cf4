"""Starting weights, copied by layer name as `caffe train -weights` does.

`python -m stylefinetune.weights NAME` fetches published ones.
"""

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from stylefinetune.caffe.pretrained import MIRRORS, PUBLISHED, fetch_published
from stylefinetune.errors import run_command


def print_fetched(arguments: list[str]) -> None:
    """Runs the command line `arguments`: fetches a published file and prints where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m stylefinetune.weights",
        description="Fetches what Caffe's authors published. --weights and --data.mean_file then take it by its name.",
    )
    parser.add_argument("name", choices=PUBLISHED, help=", ".join(PUBLISHED))
    parser.add_argument(
        "--mirror",
        metavar="URL",
        action="append",
        default=[],
        help=f"folder to fetch from before {MIRRORS[0]}; may be given again",
    )
    options = parser.parse_args(arguments)
    columns = (TextColumn(options.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        path = fetch_published(
            options.name,
            [*options.mirror, *MIRRORS],
            lambda here, total: bar.update(task, completed=here, total=total or None),
        )
    print(path)


if __name__ == "__main__":
    sys.exit(run_command(print_fetched, sys.argv[1:]))
