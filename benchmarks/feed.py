"""Measures how fast pictures are read: `python -m benchmarks.feed [--peers_python PYTHON]`.

Pictures of 500x333 pixels are drawn, or cut out of the photographs in `--photos`, and stored as JPEGs and as pixels of
256x256. Each program delivers batches of 50 pictures of 256x256 from 1 and 2 worker processes:

- default: a run of this version, shuffled
- bare: memcpy of pixels that are in memory; OpenCV's decoding and resizing of JPEGs that are in memory
- webdataset, ImageFolder (torchvision): in PyTorch's DataLoader
- Streaming (MosaicML), litdata: with the Python of an environment that has them, `--peers_python`

Every program runs in its own process, and they take turns of `--seconds`, while the others wait. So the load of the
machine affects all of them alike. Prints medians over the rounds: pictures a second, the processor time of all
processes for a picture, the processor time of the reading process (the rank) for a batch, and the ratio of pictures a
second to those of `default` in the same round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from benchmarks import feed_peers
from benchmarks.feed_peers import BATCH, SIDE

ROOT = Path(__file__).resolve().parent.parent
IN_PEERS_PYTHON = ("Streaming", "litdata")
ENCODED = {"npy": "pixels", "jpg": "original"}  # formats in the index, and the encode_format that makes them


class Measured(NamedTuple):
    """What one turn measured."""

    batches: int
    seconds: float
    processor: float  # seconds of all processes
    rank: float  # processor seconds of the reading process

    @property
    def speed(self) -> float:
        """Pictures a second."""
        return self.batches * BATCH / self.seconds


def draw_pictures(folder: Path, count: int, photos: Path | None) -> None:
    """Write JPEGs of 500x333 to 20 folders: parts of photographs, or smooth colours with noise."""
    random = np.random.default_rng(0)
    sources: list[Any] = [cv2.imread(str(file)) for file in sorted(photos.iterdir())] if photos else []
    for number in range(count):
        if sources:
            source = sources[number % len(sources)]
            scale = min(source.shape[0] / 333, source.shape[1] / 500) * random.uniform(0.6, 1)
            height, width = int(333 * scale), int(500 * scale)
            top = random.integers(0, source.shape[0] - height + 1)
            left = random.integers(0, source.shape[1] - width + 1)
            picture = cv2.resize(
                source[top : top + height, left : left + width], (500, 333), interpolation=cv2.INTER_AREA
            )
        else:
            colours = cv2.resize(
                random.integers(0, 256, (12, 18, 3)).astype(np.float32), (500, 333), interpolation=cv2.INTER_CUBIC
            )
            noise = cv2.resize(random.normal(0, 30, (167, 250, 3)), (500, 333), interpolation=cv2.INTER_LINEAR)
            picture = np.clip(colours + noise, 0, 255).astype(np.uint8)
        path = folder / "pictures" / f"{number % 20:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def prepare(folder: Path, count: int, photos: Path | None, peers_python: str | None) -> None:
    """Make the pictures, the shards, and the datasets of other programs."""
    draw_pictures(folder, count, photos)
    files = sorted((folder / "pictures").rglob("*.jpg"))
    listed = folder / "list.txt"
    listed.write_text("".join(f"{file} {int(file.parent.name)}\n" for file in files))
    for kind, encoding in ENCODED.items():
        flags = [f"--encode_format={encoding}", "--rows_per_shard=500"]
        flags += [f"--image_size={SIDE}"] if kind == "npy" else []
        command = [sys.executable, "-m", "shards", "assemble", "--list", f"train={listed}", "--out", str(folder / kind)]
        subprocess.run([*command, *flags], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    if peers_python:
        peers = Path(feed_peers.__file__)
        subprocess.run([peers_python, str(peers), str(folder), "--write"], check=True, stdout=subprocess.DEVNULL)
    mean = statistics.mean(file.stat().st_size for file in files)
    print(f"{count} JPEGs of {mean / 1000:.0f} KB on average", flush=True)


def read_shards(shards: Path, workers: int) -> Iterator[object]:
    """Yield the batches of a run."""
    import torch  # noqa: PLC0415 -- only the measured processes need these

    from shards.format.order import RankBatchSampler  # noqa: PLC0415
    from stylefinetune.config.data import DataConfig  # noqa: PLC0415
    from stylefinetune.data.dataset import PictureDataset, open_index, open_split  # noqa: PLC0415
    from stylefinetune.data.loader import load_batches  # noqa: PLC0415

    data = DataConfig(shards=str(shards), image_size=SIDE, crop_size=227, batch_size=BATCH)
    pictures = PictureDataset(open_split(open_index(data), "train"), data.phase(training=True), seed=1)
    return load_batches(pictures, RankBatchSampler(0, 10**9, BATCH, 0, 1), workers, torch.device("cpu"))


class Program:
    """A process that reads pictures when it is asked to."""

    def __init__(self, name: str, python: str, folder: Path, kind: str, workers: int) -> None:
        self.name = name
        script = __file__ if name == "default" else feed_peers.__file__
        self._process = subprocess.Popen(
            [python, script, str(folder), "--serve", name, kind, str(workers)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait(self) -> None:
        """Wait until it reads."""
        while self._read() != "ready":
            pass  # what its libraries print

    def measure(self, seconds: float) -> Measured:
        """Let it read for that time."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return Measured(*json.loads(self._read()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}")
        return line.strip()


def format_rows(kind: str, workers: int, found: dict[str, list[Measured]]) -> Iterator[str]:
    """Yield the rows of a table in Markdown."""
    for name, turns in found.items():
        median = [
            statistics.median(values)
            for values in (
                [turn.speed for turn in turns],
                [1e6 * turn.processor / (turn.batches * BATCH) for turn in turns],
                [1e3 * turn.rank / turn.batches for turn in turns],
                [turn.speed / own.speed for turn, own in zip(turns, found["default"], strict=True)],
            )
        ]
        shown = f"{median[0]:,.0f} | {median[1]:,.0f} | {median[2]:.2f} | {median[3]:.2f}"
        yield f"| {kind} | {workers} | {name} | {shown} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of an earlier call, or a new one to keep; else temporary")
    parser.add_argument("--peers_python", metavar="PYTHON", help="with the packages of Streaming and litdata")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs that the pictures are cut out of")
    parser.add_argument("--only", nargs="+", metavar="PROGRAM", help="compare with these programs only")
    parser.add_argument("--kinds", nargs="+", choices=list(ENCODED), default=list(ENCODED))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _, kind, workers = options.serve
        feed_peers.serve(read_shards(options.folder / kind, int(workers)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        if not (folder / "list.txt").exists():
            prepare(folder, options.images, options.photos, options.peers_python)
        print(f"load {os.getloadavg()[0]:.1f}\n", flush=True)
        print("| pictures | workers | program | pictures/s | µs a picture | rank's ms a batch | speed / default |")
        print("|---|---|---|---|---|---|---|")
        for kind in options.kinds:
            names = ["default", *feed_peers.PROGRAMS]
            names = [name for name in names if name not in IN_PEERS_PYTHON or options.peers_python]
            names = [name for name in names if name != "ImageFolder" or kind == "jpg"]
            names = [name for name in names if name in ("default", *(options.only or names))]
            for workers in options.workers:
                measure(folder, kind, workers, names, options)


def measure(folder: Path, kind: str, workers: int, names: list[str], options: argparse.Namespace) -> None:
    """Measure programs in turn, and print their rows."""
    pythons = {name: options.peers_python if name in IN_PEERS_PYTHON else sys.executable for name in names}
    programs = [Program(name, pythons[name], folder, kind, workers) for name in names]
    for program in programs:
        program.wait()
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for program in programs:
            found[program.name].append(program.measure(options.seconds))
    for program in programs:
        program.close()
    for line in format_rows(kind, workers, found):
        print(line, flush=True)


if __name__ == "__main__":
    main()
