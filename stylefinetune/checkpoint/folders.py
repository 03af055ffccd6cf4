"""Finds a run's checkpoints: RUN/checkpoints/iter_N, by their iteration or as the last or the best one."""

import contextlib
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

PROGRESS = "progress.json"
BEST, LAST = "best", "last"


def checkpoint_path(run_dir: Path, iteration: int) -> Path:
    """Return the path of the checkpoint after `iteration` iterations."""
    return run_dir / "checkpoints" / f"iter_{iteration}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints of the run, highest iteration first."""
    return sorted(filter(is_named, (run_dir / "checkpoints").glob("iter_*")), key=iteration_of, reverse=True)


def is_named(path: Path) -> bool:
    """Return whether `path` has the name of a checkpoint."""
    return re.fullmatch(r"iter_\d+", path.name) is not None


def iteration_of(path: Path) -> int:
    """Return the number of iterations before the checkpoint at `path`."""
    return int(path.name.removeprefix("iter_"))


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint of the run with the highest iteration, or None."""
    return next(iter(list_checkpoints(run_dir)), None)


def best_checkpoint(found: Sequence[Path], tests: list[dict[str, float]], metric: str) -> Path | None:
    """Return the checkpoint whose test has the highest accuracy or map or the lowest loss; None if none is tested.

    Args:
        found: checkpoints, highest iteration first; the earliest of equally good ones is returned.
        tests: the tests of the run, see Progress.
        metric: accuracy, map or loss.
    """
    sign = -1.0 if metric == "loss" else 1.0
    scores = {test["iteration"]: sign * metric_of(test, metric) for test in tests}
    scores = {iteration: score for iteration, score in scores.items() if not math.isnan(score)}
    tested = [path for path in reversed(found) if iteration_of(path) in scores]
    return max(tested, key=lambda path: scores[iteration_of(path)], default=None)


def metric_of(test: dict[str, float], metric: str) -> float:
    """Return a metric of a test; that of the average of the weights, if it was tested too; NaN if there is none."""
    return test.get(f"ema_{metric}", test.get(metric, math.nan))


def read_tests(path: Path) -> list[dict[str, float]] | None:
    """Return the tests that a checkpoint records, see Progress; None if it is damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads((path / PROGRESS).read_text(encoding="utf-8"))["tests"]
    return None


def link_best(run_dir: Path, best: Path) -> None:
    """Let RUN/best be a link to a checkpoint; has no effect on a file system that has no links."""
    link, new = run_dir / BEST, run_dir / f".{BEST}.new"
    with contextlib.suppress(OSError):
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(best, run_dir))
        new.replace(link)


def find_checkpoint_folder(path: Path) -> Path | None:
    """Return the checkpoint that `path` names; None if there is none.

    It names a checkpoint's folder, a run's folder for its newest checkpoint, or RUN:last, RUN:best or RUN:ITERATION.
    """
    if (path / PROGRESS).is_file():
        return path.resolve() if path.is_symlink() else path
    run, colon, name = str(path).rpartition(":")
    if colon and not path.exists():
        return _named_checkpoint(Path(run), name)
    return newest_checkpoint(path) or (path if is_named(path) and path.exists() else None)


def _named_checkpoint(run_dir: Path, name: str) -> Path | None:
    if name == LAST:
        return newest_checkpoint(run_dir)
    if name == BEST:
        link = run_dir / BEST
        return link.resolve() if link.is_dir() else _best_by_accuracy(run_dir)
    path = run_dir / "checkpoints" / f"iter_{name.removeprefix('iter_')}"
    return path if is_named(path) and path.exists() else None


def _best_by_accuracy(run_dir: Path) -> Path | None:
    """Return the best checkpoint of a run without a link, which an earlier version wrote."""
    found = list_checkpoints(run_dir)
    for path in found:
        tests = read_tests(path)
        if tests is not None:
            return best_checkpoint(found, tests, "accuracy")
    return None
