"""Sums a quickstart up from what it left on disk: how many links lived, what was learned, where everything lies."""

import argparse
import collections
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from shards.format.outcomes import Status


def count_links(shards: Path) -> collections.Counter[str]:
    """Returns how many rows of outcomes.parquet came to each status."""
    return collections.Counter(pq.read_table(shards / "outcomes.parquet", columns=["status"])["status"].to_pylist())


def read_tests(run: Path) -> list[dict[str, Any]]:
    """Returns metrics.jsonl's tests in order."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [told for told in map(json.loads, lines) if told["phase"] == "test"]


def newest_checkpoint(run: Path) -> Path:
    """Returns the run's last checkpoint."""
    return max((run / "checkpoints").glob("iter_*"), key=lambda path: int(path.name.removeprefix("iter_")))


def summarize(shards: Path, run: Path) -> str:
    """Returns the summary, of some lines; every number comes from the files that it names."""
    links = count_links(shards)
    lived, dead = links.pop(Status.KEPT), links
    first, *_, last = read_tests(run)
    rest = ", ".join(f"{count} {status}" for status, count in dead.most_common())
    lines = [
        f"links        {lived} of {lived + dead.total()} lived; the rest: {rest}",
        f"accuracy     {first['accuracy']:.3f} untrained, {last['accuracy']:.3f} after {last['iteration']} iterations",
        f"shards       {shards}: index.parquet lists the pictures, outcomes.parquet what became of each link",
        f"checkpoint   {newest_checkpoint(run)}",
        f"metrics      {run / 'metrics.jsonl'}, and in Caffe's words {run / 'train.log'}",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Prints the summary of `SHARDS RUN`."""
    parser = argparse.ArgumentParser(prog="python -m launch.summary", description=(__doc__ or "").strip())
    parser.add_argument("shards", type=Path, help="folder that python -m shards assemble made")
    parser.add_argument("run", type=Path, help="folder of the training run")
    options = parser.parse_args(arguments)
    try:
        print(summarize(options.shards, options.run))
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {error}; launch/quickstart.sh makes what is missing\n")


if __name__ == "__main__":
    main(sys.argv[1:])
