"""Compares the trainer with results of the original Caffe: `python -m benchmarks.caffe_parity [GOLDEN]`.

GOLDEN is a folder of Caffe's own results; the default is the compact copy in tests/golden. Prints a table, and exits
with 1 if a row fails. A row with the verdict "tie" exceeds the tolerance for the reason at benchmarks.caffe_checks.TIE;
the rows that follow it compare with an exact run and must hold.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import caffe_checks, caffe_full_size
from benchmarks.caffe_checks import ROOT, Row
from benchmarks.caffe_results import read_micro

KINDS = ("finetune", "scratch", "itersize2")
# Those that meet the tie in float32 run in float64 too.
RUNS = [*((kind, "float32") for kind in KINDS), ("scratch", "float64"), ("itersize2", "float64")]
RANKS = (1, 2, 3)


def compare_all(golden: Path, work: Path) -> Iterator[Row]:
    """Yield every comparison.

    Args:
        golden: folder of Caffe's results.
        work: empty folder for runs and shards.
    """
    for form in ("original", "pixels"):
        yield from caffe_checks.compare_pictures(golden, work, form)
    yield from caffe_full_size.compare_forward(golden)
    yield from caffe_full_size.compare_steps(golden)
    results = {kind: read_micro(golden, kind) for kind in KINDS}
    turned = caffe_checks.run_turned(golden, results["scratch"], work / "turned")
    for kind, precision in RUNS:
        for ranks in RANKS:
            run_dir = work / f"{kind}_{precision}_{ranks}"
            caffe_checks.run_solver(golden, kind, ranks, run_dir, "--checkpoint.snapshot=1", precision=precision)
            if kind != "itersize2" and precision == "float32" and ranks == 1:
                yield from caffe_checks.compare_first_iteration(golden, kind, results[kind], run_dir)
            other = turned if kind != "finetune" and precision == "float32" else None
            yield from caffe_checks.compare_run(run_dir, results[kind], f"{kind}, {precision}", ranks, other)
    yield from caffe_checks.compare_resumed(golden, results["scratch"], work, turned)
    yield from caffe_checks.compare_small_batches(golden, work)


def main(arguments: list[str]) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.caffe_parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("golden", type=Path, nargs="?", default=ROOT / "tests" / "golden")
    golden: Path = parser.parse_args(arguments).golden.resolve()
    if not (golden / "micro").is_dir():
        parser.error(f"{golden} contains no results of Caffe")
    torch.set_num_threads(1)  # as in the runs
    began = time.monotonic()
    table = Table("what", "ranks", "largest difference", "tolerance", "", box=None, pad_edge=False)
    verdicts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for row in compare_all(golden, Path(folder)):
            verdicts[row.verdict] += 1
            table.add_row(row.what, str(row.ranks), f"{row.difference:.1e}", f"{row.tolerance:.0e}", row.verdict)
            sys.stderr.write(f"{row.verdict}: {row}\n")
    Console(width=130).print(table)
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("holds", "tie", "FAILS"))
    print(f"{counts}; {time.monotonic() - began:.0f} s")
    return int(verdicts["FAILS"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
