"""Summarizes a quickstart from its files: how many URLs worked, the accuracy, and where the results are."""

import argparse
import collections
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from shards.format.outcomes import Status


def count_links(shards: Path) -> collections.Counter[str]:
    """Return the number of rows of outcomes.parquet with each status."""
    return collections.Counter(pq.read_table(shards / "outcomes.parquet", columns=["status"])["status"].to_pylist())


def read_tests(run: Path) -> list[dict[str, Any]]:
    """Return the test results in metrics.jsonl, in order."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["phase"] == "test"]


def newest_checkpoint(run: Path) -> Path:
    """Return the run's last checkpoint."""
    return max((run / "checkpoints").glob("iter_*"), key=lambda path: int(path.name.removeprefix("iter_")))


def summarize(shards: Path, run: Path) -> str:
    """Return the summary as lines of text."""
    links = count_links(shards)
    kept, failed = links.pop(Status.KEPT), links
    first, *_, last = read_tests(run)
    rest = ", ".join(f"{count} {status}" for status, count in failed.most_common())
    lines = [
        f"URLs         {kept} of {kept + failed.total()} kept; the rest: {rest}",
        f"accuracy     {first['accuracy']:.3f} untrained, {last['accuracy']:.3f} after {last['iteration']} iterations",
        f"shards       {shards}: index.parquet lists the pictures, outcomes.parquet the outcome of each URL",
        f"checkpoint   {newest_checkpoint(run)}",
        f"metrics      {run / 'metrics.jsonl'}, and in Caffe's log format {run / 'train.log'}",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the summary of the shards and the run that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m launch.summary", description=(__doc__ or "").strip())
    parser.add_argument("shards", type=Path, help="folder of the shards")
    parser.add_argument("run", type=Path, help="folder of the training run")
    options = parser.parse_args(arguments)
    try:
        print(summarize(options.shards, options.run))
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {error}; launch/quickstart.sh makes what is missing\n")


if __name__ == "__main__":
    main(sys.argv[1:])
