"""Downloads published weights: `stylefinetune weights NAME`, or ARCH:NAME for another network's."""

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from stylefinetune.caffe.pretrained import MIRRORS, PUBLISHED, fetch_published
from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.errors import UserError, run_command

if TYPE_CHECKING:
    from rich.progress import Progress


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "weights",
        "Downloads published weights, so that a run can start offline. NAME is a file of Caffe's authors, for\n"
        "`train --weights NAME` (imagenet_mean: for `--data.mean_file`), or ARCH:NAME for the weights of a network of\n"
        "torchvision or timm, for `train --model.arch ARCH --weights NAME`.",
        ["bvlc_reference_caffenet", "resnet50:DEFAULT", "timm/resnet18.a1_in1k:DEFAULT"],
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help=f"{', '.join(PUBLISHED)}; or ARCH:NAME, for example resnet50:IMAGENET1K_V2, or resnet50:DEFAULT",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        action="append",
        default=[],
        help=f"URL of a folder to try before {MIRRORS[0]}; repeat for more mirrors",
    )
    return parser


def fetch_weights(arguments: list[str]) -> None:
    """Download the file that the command line `arguments` names, and print its path."""
    options = parse_command(build_parser(), arguments)
    arch, colon, name = options.name.partition(":")
    if colon:
        from stylefinetune.models.published_weights import fetch_published_weights  # noqa: PLC0415 -- imports torch

        print(fetch_published_weights(arch, name) or f"{options.name} is in the cache of huggingface_hub")
        return
    if options.name not in PUBLISHED:
        raise UserError(
            f"there are no published weights {options.name}; name one of {', '.join(PUBLISHED)}, or ARCH:NAME, for "
            "example resnet50:DEFAULT"
        )
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
