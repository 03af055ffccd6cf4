"""Measures what `assemble --wandb` adds to a crawl: `python -m benchmarks.crawl_tracking [--images N] [--rounds N]`.

Prints the processor time of a crawl of N pictures from the server of `benchmarks.crawl`, of the start and the end of an
offline run of W&B, and of its rows, including the processes that W&B starts; and from these the share of W&B in a crawl
of the 80,000 URLs of the official list. Two crawls, with W&B and without, differ by less than their repetitions.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.crawl import ROOT, crawl_ours, serve

_LIST = 80_000  # URLs of the official list
_INTERVAL = 10  # seconds between two rows
_ROWS = 1000
# Prints the processor seconds of the start and the end of a run, and of each row.
_PROGRAM = """
import sys, time
import psutil

def used():
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)

began = used()
from pathlib import Path
from shards.tracking.wandb_run import RunName, WandbRun
folder = Path(sys.argv[1])
run = WandbRun(RunName(folder / "wandb.json", None, "a", None, folder), "offline", {}, [], print)
time.sleep(1)
started = used()
for step in range(int(sys.argv[2])):
    run.send(step, {"time": time.time(), "files": step} | {f"outcomes/{each}": step for each in range(15)})
time.sleep(1)
sent = used()
before = time.process_time()
run.finish(failed=False)
print(started - began + time.process_time() - before, (sent - started) / int(sys.argv[2]))
"""


def measure_crawl(images: int, folder: Path) -> tuple[float, float]:
    """Return the processor seconds and the seconds of a crawl without W&B."""
    listed = folder / "list.csv"
    with serve() as url:
        with listed.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_url", "label"])
            writer.writerows((f"{url}/{number}.jpg", number % 20) for number in range(images))
        usage = crawl_ours(listed, folder / "shards", [])
    return sum(usage.cpu.values()), usage.seconds


def measure_run(folder: Path) -> tuple[float, float]:
    """Return the processor seconds of the start and the end of an offline run, and of a row."""
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(_ROWS)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    start, row = map(float, done.stdout.split())
    return start, row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        processor, seconds = measure_crawl(options.images, Path(folder))
        runs = [measure_run(Path(folder)) for _ in range(options.rounds)]
    start, row = (statistics.median(values) for values in zip(*runs, strict=True))
    print(f"{options.images} pictures: {processor:.1f} processor s, {seconds:.1f} s")
    print(f"W&B: {start:.2f} processor s for the start and the end, {1000 * row:.2f} processor ms a row")
    complete = processor * _LIST / options.images
    added = start + row * seconds * _LIST / options.images / _INTERVAL
    print(f"{_LIST} pictures: {complete:.0f} processor s, of which W&B would be {100 * added / complete:.2f} %")


if __name__ == "__main__":
    main()
