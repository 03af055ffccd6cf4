"""Makes a workspace and a report at Weights & Biases for the runs of a project: `stylefinetune dashboard`."""

import json
import os
import sys

from jsonargparse import ArgumentParser

from shards.format import first_line
from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.errors import UserError, run_command


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "dashboard",
        "Makes a workspace and a report at Weights & Biases, with sections for the metrics of this program.",
        ["", "--project styles --entity my-team", "--dry_run true"],
    )
    parser.add_argument("--project", help="W&B project (default: WANDB_PROJECT, or stylefinetune)")
    parser.add_argument("--entity", help="team or user (default: WANDB_ENTITY, or that of the account)")
    parser.add_argument("--dry_run", type=bool, default=False, help="print what would be sent, and send nothing")
    return parser


def make_dashboard(arguments: list[str]) -> None:
    """Run the command line `arguments`, and print the addresses."""
    options = parse_command(build_parser(), arguments)
    try:
        from stylefinetune.tracking.dashboards import wandb_workspace  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise UserError(
            f"stylefinetune dashboard needs a package that is missing ({error}); pip install 'stylefinetune[dashboard]'"
        ) from error
    project = options.project or os.environ.get("WANDB_PROJECT") or "stylefinetune"
    entity = options.entity or os.environ.get("WANDB_ENTITY") or ""
    if options.dry_run:
        print(json.dumps(wandb_workspace.describe(entity, project), indent=1))
        return
    try:
        addresses = wandb_workspace.publish(entity, project)
    except Exception as error:
        raise UserError(f"Weights & Biases failed ({first_line(error)}); `wandb login` sets the account") from error
    print("\n".join(addresses))


if __name__ == "__main__":
    sys.exit(run_command(make_dashboard, sys.argv[1:]))
