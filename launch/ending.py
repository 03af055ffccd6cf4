"""How a run ended, for the scripts that started it: its own exit code, and whether to start it again.

    python launch/ending.py RUN CODE [--asked SIGNAL] [--job JOB]

Prints the exit code: RUN/exit.json's; where there is none, 128 + n if the run was asked by signal n to stop before it
could tell, else CODE, its launcher's. With --job a second word, `requeue`, follows where a scheduler should start it
again: where RUN/exit.json says so, or the run was asked by a scheduler before it could tell. A job whose requeues bring
no new checkpoint isn't requeued for ever: RUN/requeued.json counts them.
"""

import argparse
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

MOST_IN_VAIN = 3  # requeues of a job from one and the same checkpoint
TAKEN_AWAY = {signal.SIGTERM, signal.SIGUSR1}  # with these schedulers take a node away; with others, people stop a run


def read_ending(run: Path) -> dict[str, Any] | None:
    """Returns what RUN/exit.json says, or None where there is none."""
    try:
        return json.loads((run / "exit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def exit_code(ending: dict[str, Any] | None, asked: signal.Signals | None, launcher: int) -> int:
    """Returns the code that stands for the run."""
    if ending:
        return ending["code"]
    return 128 + asked if asked else launcher


def should_go_on(ending: dict[str, Any] | None, asked: signal.Signals | None) -> bool:
    """Says whether the same command would get further, without anybody mending anything."""
    return ending["requeue"] if ending else asked in TAKEN_AWAY


def count_requeue(run: Path, job: str) -> int:
    """Counts one more requeue, and returns how many in a row have begun at the checkpoint that is the newest now."""
    file = run / "requeued.json"
    here: dict[str, Any] = {"job": job, "checkpoint": _newest(run)}
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    times = before["times"] + 1 if {key: before.get(key) for key in here} == here else 1
    run.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(here | {"times": times}) + "\n", encoding="utf-8")
    return times


def _newest(run: Path) -> int | None:
    found = [re.fullmatch(r"iter_(\d+)", path.name) for path in (run / "checkpoints").glob("iter_*")]
    return max((int(name[1]) for name in found if name), default=None)


def _signal(name: str) -> signal.Signals:
    return signal.Signals[f"SIG{name}"]


def main(arguments: list[str]) -> None:
    """Prints how the run of a command line's RUN ended."""
    parser = argparse.ArgumentParser(prog="launch/ending.py", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("code", type=int, help="what its launcher ended with")
    parser.add_argument("--asked", type=_signal, help="signal that came, such as USR1")
    parser.add_argument("--job", help="id of the job that may be requeued")
    options = parser.parse_args(arguments)
    ending = read_ending(options.run)
    said = [str(exit_code(ending, options.asked, options.code))]
    if options.job and should_go_on(ending, options.asked):
        if count_requeue(options.run, options.job) <= MOST_IN_VAIN:
            said.append("requeue")
        else:
            sys.stderr.write(
                f"{MOST_IN_VAIN} requeues in a row have brought no new checkpoint of {options.run}, so that there is "
                "no further one; see why above, or give the job more time, and submit it again\n"
            )
    print(*said)


if __name__ == "__main__":
    main(sys.argv[1:])
