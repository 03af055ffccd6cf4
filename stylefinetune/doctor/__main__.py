"""Checks this machine before a run: `stylefinetune doctor`."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stylefinetune.config.command_line import command_parser, parse_command
from stylefinetune.doctor.data import check_config, check_shards
from stylefinetune.doctor.disks import check_folder
from stylefinetune.doctor.finding import Finding
from stylefinetune.doctor.hardware import check_gpus, check_threads
from stylefinetune.doctor.limits import check_open_files, check_shared_memory
from stylefinetune.doctor.network import check_all_reduce
from stylefinetune.doctor.services import check_slurm, check_wandb
from stylefinetune.doctor.software import check_aria2c, check_packages, check_python
from stylefinetune.errors import EXIT_CRASH, UserError, run_command


class FailedChecksError(UserError):
    """A check has failed."""

    code = EXIT_CRASH
    reason = "doctor"


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "doctor",
        "Checks what runs need on this machine, and says what to fix. The exit code is 1 if a check has failed;\n"
        "warnings don't change it.",
        ["", "--dir runs /scratch --shards data/mine --config finetune.yaml", "--quick --json"],
    )
    parser.add_argument(
        "--dir",
        type=Path,
        nargs="+",
        default=[Path()],
        metavar="FOLDER",
        help="folders to which runs write (default: .)",
    )
    parser.add_argument(
        "--shards",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of shards to check, or their s3:// or gs:// URLs",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of a run to check")
    parser.add_argument("--quick", action="store_true", help="skip the all-reduce and the measurement of disks")
    parser.add_argument("--json", action="store_true", help="print the results as a JSON array")
    return parser


def doctor(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    options = parse_command(build_parser(), arguments)
    findings: list[Finding] = []
    for finding in _findings(options):
        findings.append(finding)
        if not options.json:
            print(finding, flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    failed = sum(finding.level == "failed" for finding in findings)
    if failed:
        raise FailedChecksError(f"{failed} of {len(findings)} checks failed")


def _findings(options: Namespace) -> Iterator[Finding]:
    """Run the checks one after another."""
    environment = os.environ
    yield check_python()
    yield check_packages()
    yield check_aria2c()
    yield from check_gpus()
    yield check_threads(environment.get("OMP_NUM_THREADS"))
    if not options.quick:
        yield check_all_reduce()
    yield check_open_files()
    yield check_shared_memory()
    for folder in options.dir:
        yield check_folder(folder, measure=not options.quick)
    yield check_wandb(environment)
    yield check_slurm(environment)
    for shards in options.shards:
        yield check_shards(shards)
    if options.config:
        yield check_config(options.config)


if __name__ == "__main__":
    sys.exit(run_command(doctor, sys.argv[1:]))
