"""Takes the pictures of docs/tutorial.md: `python -m benchmarks.tutorial_pictures SHARDS RUN` after a quickstart.

SHARDS and RUN are data/quickstart and runs/quickstart. It writes the pages of both, and photographs them with Chromium.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 1180  # pixels of a page
COLOURS = 128  # of a PNG, so that it is small


def run_module(*arguments: str | Path) -> None:
    """Run `python -m ARGUMENTS`."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def photograph(page: Path, picture: Path, height: int) -> None:
    """Save the upper part of a page as a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.png")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        flags += [f"--window-size={WIDTH},{height}", "--virtual-time-budget=10000", f"--screenshot={file}"]
        subprocess.run([BROWSER, *flags, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        image = Image.open(file).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(picture, picture.stat().st_size, "bytes")


def newest_mistakes(run: Path) -> Path:
    """Return the page of mistakes that the last offline start has stored for Weights & Biases."""
    return max(run.glob("wandb/**/media/html/final/worst_*.html"), key=lambda path: path.stat().st_mtime)


def main() -> None:
    """Write the pages and take the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tutorial_pictures", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("shards", type=Path, help="data/quickstart")
    parser.add_argument("run", type=Path, help="runs/quickstart")
    options = parser.parse_args()
    run_module("shards", "report", options.shards)
    run_module("stylefinetune.evaluate", options.run, "--out", options.run / "evaluation")
    run_module("stylefinetune.report", options.run)
    photograph(options.shards / "report.html", DOCS / "tutorial_crawl.png", 900)
    photograph(options.run / "report.html", DOCS / "tutorial_run.png", 1100)
    photograph(newest_mistakes(options.run), DOCS / "tutorial_wandb.png", 480)


if __name__ == "__main__":
    main()
