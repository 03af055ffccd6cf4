"""Measures how long the commands take to start: `python -m benchmarks.start [--before DIR] [--rounds 7]`.

Runs `python -m stylefinetune.COMMAND --help` for each command, `stylefinetune train` with --help and with a wrong flag,
and `import torch` alone, in turn; with --before also the commands of the checkout DIR, for example of `git worktree add
DIR COMMIT`. Prints the medians over the rounds: seconds, processor seconds, and the processor seconds more than `import
torch`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.step import ROOT, Measured
from stylefinetune.errors import EXIT_USER_ERROR

NAMES = ("train", "check", "evaluate", "predict", "export", "weights")
COMMANDS = {name: ["-m", f"stylefinetune.{name}", "--help"] for name in NAMES}
COMMANDS["stylefinetune train"] = ["-m", "stylefinetune", "train", "--help"]
WRONG = "stylefinetune train, wrong flag"
COMMANDS[WRONG] = ["-m", "stylefinetune", "train", "--train.max_iter=many"]
TORCH = "import torch"


def start(command: str, checkout: Path) -> Measured:
    """Run a command with --help or a wrong flag, or `import torch`."""
    arguments = ["-c", TORCH] if command == TORCH else COMMANDS[command]
    began, spent = time.perf_counter(), _processor_of_children()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == (EXIT_USER_ERROR if command == WRONG else 0), done.stderr.decode()
    return Measured(time.perf_counter() - began, _processor_of_children() - spent)


def _processor_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of an earlier version to compare with")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="measure this command; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    checkouts = [ROOT, *([options.before.resolve()] if options.before else [])]
    runs = [(TORCH, ROOT), *((command, checkout) for command in options.only or COMMANDS for checkout in checkouts)]
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n", flush=True)
    found: dict[tuple[str, Path], list[Measured]] = {run: [] for run in runs}
    for round_ in range(1 + options.rounds):  # the first one fills the page cache and writes .pyc files
        for run in runs:
            measured = start(*run)
            if round_:
                found[run].append(measured)
    torch = statistics.median(each.processor for each in found[TORCH, ROOT])
    print("| command | seconds | processor seconds | more than torch |\n|---|---|---|---|")
    for (command, checkout), measured in found.items():
        seconds = statistics.median(each.seconds for each in measured)
        processor = statistics.median(each.processor for each in measured)
        name = f"{command}, before" if checkout != ROOT else command
        print(f"| {name} | {seconds:.2f} | {processor:.2f} | {processor - torch:+.2f} |")


if __name__ == "__main__":
    main()
