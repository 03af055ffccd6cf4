"""Downloads published weights: `python -m stylefinetune.weights NAME`."""

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from stylefinetune.caffe.pretrained import MIRRORS, PUBLISHED, fetch_published
from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.errors import run_command

if TYPE_CHECKING:
    from rich.progress import Progress


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "weights",
        "Download a file that Caffe's authors published. --weights and --data.mean_file accept its name.",
    )
    parser.add_argument("name", choices=PUBLISHED, help=", ".join(PUBLISHED))
    parser.add_argument(
        "--mirror",
        metavar="URL",
        action="append",
        default=[],
        help=f"download from this folder before {MIRRORS[0]}; repeat for more mirrors",
    )
    return parser


def fetch_weights(arguments: list[str]) -> None:
    """Download the file that the command line `arguments` names, and print its path."""
    options = parse_command(build_parser(), arguments)
    with _progress_bar(options.name) as bar:
        task = bar.add_task("", total=None)
        path = fetch_published(
            options.name,
            [*options.mirror, *MIRRORS],
            lambda received, total: bar.update(task, completed=received, total=total or None),
        )
    print(path)


def _progress_bar(name: str) -> "Progress":
    from rich import progress as rich  # noqa: PLC0415 -- --help need not wait for it
    from rich.console import Console  # noqa: PLC0415

    size, speed, rest = rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn()
    console = Console(stderr=True)
    columns = (rich.TextColumn(name), rich.BarColumn(), size, rest, speed)
    return rich.Progress(*columns, console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    sys.exit(run_command(fetch_weights, sys.argv[1:]))
