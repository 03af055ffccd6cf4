"""Measures the speed and the memory of a download: `python -m benchmarks.crawl speed | size`.

speed: from URLs to finished shards, with the same URLs and the same server for every run. `--img2dataset PROGRAM`
measures img2dataset, which should be in a separate environment, alternately with `shards`, and `--before DIR` another
checkout of this project. size: the peak memory of each program, for a tenth of a list and for the complete list,
through a proxy that answers for every host.
"""

import argparse
import contextlib
import csv
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
_SAMPLE_INTERVAL = 0.1  # seconds between two samples
# Flags of `shards` and of img2dataset. original: the bytes as downloaded, which only `shards` decodes to check them.
# checked: the same bytes, and img2dataset decodes them, too. jpg: JPEGs of 256 pixels a side.
FORMS = {
    "original": (["--encode_format=original"], ["--disable_all_reencoding=True", "--resize_mode=no"]),
    "checked": (["--encode_format=original"], ["--skip_reencode=True", "--resize_mode=no"]),
    "jpg": (["--encode_format=jpg", "--image_size=256"], ["--image_size=256", "--resize_mode=border"]),
}


@dataclasses.dataclass
class Usage:
    """Resources that one command used.

    Attributes:
        seconds: wall-clock time.
        cpu: seconds of processor time by program.
        peak: peak resident bytes by program, summed over its processes.
        kept: number of pictures in the shards.
    """

    seconds: float = 0.0
    cpu: dict[str, float] = dataclasses.field(default_factory=dict)
    peak: dict[str, int] = dataclasses.field(default_factory=dict)
    kept: int = 0


class Watch(threading.Thread):
    """Samples a process and its descendants until `stop` is called."""

    def __init__(self, root: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._ended = threading.Event()
        self._cpu: dict[tuple[int, str], float] = {}
        self.peak: dict[str, int] = defaultdict(int)

    def run(self) -> None:
        """Sample until `stop` is called."""
        while not self._ended.wait(_SAMPLE_INTERVAL):
            resident: dict[str, int] = defaultdict(int)
            processes = [self._root]
            with contextlib.suppress(psutil.NoSuchProcess):  # the root has exited
                processes += self._root.children(recursive=True)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                    program = self._program_of(process)
                    resident[program] += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu[process.pid, program] = times.user + times.system
            for program, size in resident.items():
                self.peak[program] = max(self.peak[program], size)

    def _program_of(self, process: psutil.Process) -> str:
        if process.pid == self._root.pid:
            return "driver"
        return "aria2c" if process.name().startswith("aria2c") else "workers"

    def stop(self) -> dict[str, float]:
        """Stop sampling and return the processor time of each program."""
        self._ended.set()
        self.join()
        cpu: dict[str, float] = defaultdict(float)
        for (_, program), seconds in self._cpu.items():
            cpu[program] += seconds
        return cpu


def measure(command: list[str], folder: Path = ROOT) -> Usage:
    """Run a command in a folder and return the resources that it used.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    os.sync()  # otherwise it would wait for the disk to write the files of the previous run
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        watch = Watch(process)
        watch.start()
        code = process.wait()
        usage = Usage(time.monotonic() - began, watch.stop(), watch.peak)
        if code:
            output.seek(0)
            raise RuntimeError(f"{command[0]} failed with {code}:\n{output.read()[-2000:]}")
    return usage


@contextlib.contextmanager
def serve(*flags: str) -> Generator[str]:
    """Run the picture server; yield its address."""
    command = [sys.executable, "-m", "benchmarks.picture_server", *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def crawl_ours(listed: Path, out: Path, flags: list[str], checkout: Path = ROOT) -> Usage:
    """Download a list with `shards assemble`."""
    command = [sys.executable, "-m", "shards", "assemble", f"--list={listed}", f"--out={out}", "--workers=2"]
    usage = measure([*command, *flags], checkout)
    usage.kept = pq.read_metadata(out / "index.parquet").num_rows
    return usage


def crawl_theirs(program: str, listed: Path, out: Path, flags: list[str]) -> Usage:
    """Download the same list with img2dataset."""
    command = [program, str(listed), "--input_format=csv", "--url_col=image_url", "--output_format=webdataset"]
    sizes = ["--number_sample_per_shard=1000", f"--output_folder={out}", "--enable_wandb=False"]
    usage = measure([*command, *sizes, *flags])
    usage.kept = sum(
        status == "success"
        for part in out.glob("*.parquet")
        for status in pq.read_table(part, columns=["status"]).column("status").to_pylist()
    )
    return usage


def compare_speed(options: argparse.Namespace, work: Path) -> list[tuple[str, str, Usage]]:
    """Return form, program and usage of each run; the programs alternate."""
    listed = work / "list.csv"
    runs: list[tuple[str, str, Usage]] = []
    with serve(f"--delay={options.delay}") as url:
        with listed.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_url", "label"])
            writer.writerows([f"{url}/{number}.jpg", number % 20] for number in range(options.images))
        # The same number of active requests for both; all URLs have one host.
        count = options.processes * options.threads
        ours = [f"--connections={count}", f"--per_host={count}", *options.flag]
        theirs = [f"--processes_count={options.processes}", f"--thread_count={options.threads}"]
        for form in options.forms:
            our_flags, their_flags = FORMS[form]
            for _ in track(range(options.rounds), description=form):
                runs.append((form, "shards", crawl_ours(listed, work / "ours", [*our_flags, *ours])))
                shutil.rmtree(work / "ours")
                if options.before:
                    usage = crawl_ours(listed, work / "ours", [*our_flags, *ours], options.before)
                    runs.append((form, "before", usage))
                    shutil.rmtree(work / "ours")
                if options.img2dataset:
                    usage = crawl_theirs(options.img2dataset, listed, work / "theirs", [*their_flags, *theirs])
                    runs.append((form, "img2dataset", usage))
                    shutil.rmtree(work / "theirs")
    return runs


def compare_size(options: argparse.Namespace, work: Path) -> list[tuple[str, str, Usage]]:
    """Return form, program and usage for a tenth of the list and for the complete list."""
    runs: list[tuple[str, str, Usage]] = []
    with serve(f"--missing={options.missing}") as url:
        for images in (options.images // 10, options.images):
            flags = [f"--images={images}", f"--proxy={url}", "--encode_format=original"]
            usage = crawl_ours(options.list, work / "ours", [*flags, *options.flag])
            runs.append((f"{images} URLs", "shards", usage))
            shutil.rmtree(work / "ours")
    return runs


def print_results(runs: list[tuple[str, str, Usage]], images: int) -> None:
    """Print the median of each kind of run, and the ratios to the other programs."""
    table = Table("", "", "runs", "s", "files/s", "kept", "CPU s", "CPU us/file", "peak MB", box=None, pad_edge=False)
    grouped: dict[tuple[str, str], list[Usage]] = defaultdict(list)
    for form, program, usage in runs:
        grouped[form, program].append(usage)
    for (form, program), usages in grouped.items():
        usage = sorted(usages, key=lambda one: one.seconds)[len(usages) // 2]
        count = int(form.split()[0]) if form.endswith("URLs") else images
        cpu = ", ".join(f"{name} {seconds:.1f}" for name, seconds in usage.cpu.items())
        peak = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in usage.peak.items())
        times = ", ".join(f"{one.seconds:.1f}" for one in usages)
        speed, total = f"{count / usage.seconds:.0f}", f"{_median_cpu(usages) / count * 1e6:.0f}"
        table.add_row(form, program, times, f"{usage.seconds:.1f}", speed, str(usage.kept), cpu, total, peak)
    Console(width=180).print(table)
    for (form, program), usages in grouped.items():
        if program != "shards":
            ours = grouped[form, "shards"]
            speed = statistics.median(they.seconds / we.seconds for they, we in zip(usages, ours, strict=True))
            cpu = _median_cpu(usages) / _median_cpu(ours)
            print(f"{form}: {speed:.2f} times the files/s of {program}; its processor time is {cpu:.2f} times ours")


def _median_cpu(usages: list[Usage]) -> float:
    """Return the median of the processor seconds of all processes of a run."""
    return statistics.median(sum(usage.cpu.values()) for usage in usages)


def main(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crawl", description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    speed, size = kinds.add_parser("speed"), kinds.add_parser("size")
    for kind in (speed, size):
        kind.add_argument(
            "--flag", action="append", default=[], help="further flag of assemble, such as --connections=32"
        )
    speed.add_argument("--images", type=int, default=8000)
    speed.add_argument("--delay", type=float, default=0, help="milliseconds that the server waits before each answer")
    speed.add_argument("--rounds", type=int, default=3)
    speed.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    speed.add_argument("--before", type=Path, help="folder of another checkout of this project")
    speed.add_argument("--img2dataset", help="path of the img2dataset program")
    speed.add_argument("--processes", type=int, default=2, help="processes of img2dataset")
    speed.add_argument("--threads", type=int, default=32, help="threads of each process of img2dataset")
    size.add_argument("--list", type=Path, required=True, help="path of the official list")
    size.add_argument("--images", type=int, default=80_000)
    size.add_argument("--missing", type=int, default=20, help="percentage of URLs that answer 404")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        compare = compare_speed if options.kind == "speed" else compare_size
        print_results(compare(options, Path(folder)), options.images)


if __name__ == "__main__":
    main(sys.argv[1:])
