"""Prints the exit code of a run, and whether to start it again, for the script that started it.

    python launch/exit_code.py RUN CODE [--signal SIGNAL] [--job JOB]

The exit code is the one in RUN/exit.json. Without that file it is 128 + n if the script received signal n, else CODE,
the launcher's exit code. With --job, the word `requeue` follows if a scheduler should start the run again: if
RUN/exit.json says so, or if there is no such file and the signal is one that schedulers send.

RUN/requeued.json counts the requeues of a job from the same checkpoint, so that they end if none brings a new one.
"""

import argparse
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

MAX_REQUEUES = 3  # of one job from the same checkpoint
PREEMPTION_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}  # schedulers send these; a person who stops a run sends others


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, or {} if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def count_requeue(run: Path, job: str) -> int:
    """Count one more requeue, and return how many requeues in a row started from the newest checkpoint."""
    file = run / "requeued.json"
    current: dict[str, Any] = {"job": job, "checkpoint": _newest_checkpoint(run)}
    previous = read_json(file)
    times = previous["times"] + 1 if previous.items() >= current.items() else 1
    run.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(current | {"times": times}) + "\n", encoding="utf-8")
    return times


def _newest_checkpoint(run: Path) -> int | None:
    names = [re.fullmatch(r"iter_(\d+)", path.name) for path in (run / "checkpoints").glob("iter_*")]
    return max((int(name[1]) for name in names if name), default=None)


def _signal(name: str) -> signal.Signals:
    return signal.Signals[f"SIG{name}"]


def main(arguments: list[str]) -> None:
    """Print the exit code, and perhaps `requeue`, of the run that the command line names."""
    parser = argparse.ArgumentParser(prog="launch/exit_code.py", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("code", type=int, help="the launcher's exit code")
    parser.add_argument("--signal", type=_signal, help="signal that the script received, such as USR1")
    parser.add_argument("--job", help="id of the job that may be requeued")
    options = parser.parse_args(arguments)
    code = 128 + options.signal if options.signal else options.code
    exit_record = {"code": code, "requeue": options.signal in PREEMPTION_SIGNALS} | read_json(options.run / "exit.json")
    print(exit_record["code"], end="")
    if options.job and exit_record["requeue"]:
        if count_requeue(options.run, options.job) <= MAX_REQUEUES:
            print(" requeue", end="")
        else:
            sys.stderr.write(
                f"{MAX_REQUEUES} requeues in a row have brought no new checkpoint of {options.run}; the job is not "
                "requeued again: see the messages above, or give the job more time, and submit it again\n"
            )
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
