"""Writes a page about runs, with curves, classes and mistakes: `stylefinetune report RUN [RUN ...]`."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.errors import UserError, run_command
from stylefinetune.prediction.output_file import complete_file


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "report",
        "Writes a page about runs, with curves, classes and mistakes, for reading offline.",
        ["runs/mine", "runs/mine runs/other --out comparison.html"],
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE", help="HTML file (default: report.html in the first RUN)")
    return parser


def report(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    options = parse_command(build_parser(), arguments)
    # These take seconds to import, and --help doesn't need them.
    from stylefinetune.run_report.history import read_history  # noqa: PLC0415
    from stylefinetune.run_report.page import render_page  # noqa: PLC0415

    runs = [read_history(run) for run in options.runs]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"two runs have the same name ({', '.join(names)}); give each a folder with another name")
    page = render_page(runs)
    path = options.out or options.runs[0] / "report.html"
    with complete_file(path) as draft:
        draft.write_text(page, encoding="utf-8")
    print(path)


if __name__ == "__main__":
    sys.exit(run_command(report, sys.argv[1:]))
