"""Measures how fast pictures are classified: `python -m benchmarks.predict`.

Pictures of 500x333 pixels are drawn and stored as JPEGs. A CaffeNet of full size with random weights classifies them,
in turn with

- batches: as `stylefinetune predict` does, in batches of 50 that threads read ahead
- plain: a loop that reads and classifies one picture after the other, as the command did before

Prints medians over the rounds of pictures a second and of the processor time of a picture, and the median of the ratios
to the pictures a second of `batches` in the same round. Checks that the probabilities are equal.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.feed import draw_pictures
from shards.format.images import resize_picture
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config
from stylefinetune.models.build import build_model
from stylefinetune.models.state import stored_tensors
from stylefinetune.prediction.loader import PictureLoader
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.pictures import FetchLimits, PictureFile

CLASSES = [f"style {number}" for number in range(20)]


def build_network() -> PictureNetwork:
    """Return a CaffeNet with random weights."""
    config = Config(data=DataConfig(mean_value=(104.0, 117.0, 123.0)))
    net = build_model(config.model, len(CLASSES), [(227, 227)], seed=0)
    mean = torch.tensor([123.0, 117.0, 104.0]).reshape(1, 1, 3)
    progress = Progress(0, [], [], 0, CLASSES, "", [256, 256], [227, 227])
    saved = Checkpoint(Path("random"), progress, config, stored_tensors(net), {}, {}, (mean, mean))
    return PictureNetwork(saved, torch.device("cpu"))


def classify_batches(network: PictureNetwork, names: list[str]) -> torch.Tensor:
    """Return the probabilities, as predict computes them."""
    with PictureLoader(network.size, network.fit, 50, os.cpu_count() or 1, FetchLimits()) as loader:
        return torch.cat([network(batch.pictures).softmax(1) for batch in loader.load(map(PictureFile, names))])


def classify_one_by_one(network: PictureNetwork, names: list[str]) -> torch.Tensor:
    """Return the probabilities, without threads and batches."""
    found: list[torch.Tensor] = []
    for name in names:
        pixels = torch.from_numpy(resize_picture(PictureFile(name).read(), *network.size))
        found.append(network(pixels[None]).softmax(1))
    return torch.cat(found)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    programs: dict[str, Callable[[PictureNetwork, list[str]], torch.Tensor]] = {
        "batches": classify_batches,
        "plain": classify_one_by_one,
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    network = build_network()
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder), options.pictures, None)
        names = sorted(map(str, Path(folder).rglob("*.jpg")))
        for classify in programs.values():
            classify(network, names[:2])
        for _ in range(options.rounds):
            results: list[torch.Tensor] = []
            for program, classify in programs.items():
                started, processor = time.monotonic(), time.process_time()
                results.append(classify(network, names))
                seconds = time.monotonic() - started
                turns[program].append((len(names) / seconds, (time.process_time() - processor) / len(names)))
            torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-6)
    print(f"load {os.getloadavg()[0]:.1f}, PyTorch with {torch.get_num_threads()} threads")
    print("| program | pictures/s | processor ms a picture | speed / batches |\n|---|---|---|---|")
    for program, measured in turns.items():
        pairs = zip(measured, turns["batches"], strict=True)
        ratio = statistics.median(speed / first for (speed, _), (first, _) in pairs)
        speed, processor = (statistics.median(turn[column] for turn in measured) for column in (0, 1))
        print(f"| {program} | {speed:.0f} | {1000 * processor:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
