"""Writes a config for the user's pictures and network: `stylefinetune init PICTURES`."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.config.schema import CAFFENET
from stylefinetune.errors import UserError, run_command, write_error
from stylefinetune.init.files import FINETUNE_FILE, SHARDS_FILE, commands, finetune_text, shards_text
from stylefinetune.init.source import find_source

_NO_WEIGHTS = "none"


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "init",
        "Looks at pictures, and writes commented configs for them: shards.yaml to pack them, and finetune.yaml to\n"
        "train on them. Nothing is overwritten.",
        ["photos", "list.csv --label_col style --arch vit_b_16", "data/mine --arch mobilenet_v2 --epochs 10 --print"],
    )
    parser.add_argument(
        "pictures",
        type=Path,
        metavar="PICTURES",
        help="folder that has a folder for each class, a list, or a folder of shards",
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="folder of the files (default: .)")
    parser.add_argument("--print", action="store_true", help="print the files instead of writing them")
    parser.add_argument("--arch", default="resnet50", help="caffenet, any classifier of torchvision, or timm/NAME")
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        help="initial weights, or none for random ones (default: the best published ones)",
    )
    parser.add_argument("--epochs", type=float, default=30, help="passes over the training pictures")
    parser.add_argument(
        "--batch_size", type=int, help="pictures per update of the weights (default: chosen by the number of pictures)"
    )
    parser.add_argument("--url_col", help="column of a list with the pictures (default: found by its name)")
    parser.add_argument("--label_col", help="column of a list with the labels (default: found by its name)")
    return parser


def init(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    options = parse_command(build_parser(), arguments)
    if options.epochs <= 0 or (options.batch_size is not None and options.batch_size < 1):
        raise UserError("--epochs must be above 0, and --batch_size at least 1")
    source = find_source(options.pictures, options.url_col, options.label_col)
    _check_arch(options.arch)
    published = "bvlc_reference_caffenet" if options.arch == CAFFENET else "DEFAULT"
    weights = None if options.weights == _NO_WEIGHTS else options.weights or published
    epochs = int(options.epochs) if options.epochs == int(options.epochs) else options.epochs
    folder = "" if options.out == Path() else f"{options.out}/"
    texts = {SHARDS_FILE: shards_text(source, folder)} if source.assembly else {}
    texts[FINETUNE_FILE] = finetune_text(source, options.arch, weights, epochs, options.batch_size, folder)
    if options.print:
        print("\n".join(f"# {name}\n{text}" for name, text in texts.items()), end="")
        return
    _write(options.out, texts)
    for name in texts:
        print(options.out / name)
    sys.stderr.write(
        "\n".join(["next:", *(f"  {step}" for step in commands(source, options.arch, weights, folder)), ""])
    )


def _check_arch(arch: str) -> None:
    if arch != CAFFENET:
        from stylefinetune.models.architectures import check_arch  # noqa: PLC0415 -- loads torch, which takes seconds

        check_arch(arch)


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write the files, or none of them.

    Raises:
        UserError: one exists, or can't be written.
    """
    for name in texts:
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists; remove it, or give another --out, or --print")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise write_error(Path(error.filename or folder), error.strerror) from error


if __name__ == "__main__":
    sys.exit(run_command(init, sys.argv[1:]))
