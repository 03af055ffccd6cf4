"""Measures the page of `shards report` for 80,000 rows: `python -m benchmarks.report_page [--before DIR] [--rounds N]`.

Prints the processor time and the time to make it, its size, and the time until a headless Chromium has loaded and drawn
it. `--before DIR` measures another checkout of this project too, for example of `git worktree add DIR COMMIT`: the two
alternate, and the last line has the ratios of the medians. The list is generated: 20 classes, 9 hosts and the outcomes
of `tests.drawn_outcomes`. Its pictures are drawn, of 360 x 240 pixels, with the spectrum of photographs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.browser import Browser, open_browser
from tests.drawn_outcomes import draw_photo, rows_from, write_dir

ROOT = Path(__file__).resolve().parents[1]
_ROWS, _CLASSES, _PHOTOS = 80_000, 20, 40
_DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))"
_COLUMNS = ("processor s", "seconds", "MB", "ms to open")


def make_dir(root: Path) -> None:
    """Write a DIR with random outcomes."""
    lines = [
        {"image_url": f"http://farm{row % 9}.staticflickr.com/1/{4_000_000_000 + row * 100_000}_0a.jpg", "row": row}
        | {"split": "test" if row % 5 == 0 else "train", "label": row * 7 % _CLASSES}
        | {"extra": json.dumps({"owner": f"owner{row % 17_000}"})}
        for row in range(_ROWS)
    ]
    names = tuple(f"class {number}" for number in range(_CLASSES))
    write_dir(root, rows_from(lines), names, [draw_photo(number) for number in range(_PHOTOS)])


def measure(checkout: Path, root: Path, page: Path, browser: Browser) -> list[float]:
    """Make and open the page once, and return a value for each of `_COLUMNS`."""
    before, began = _child_seconds(), time.monotonic()
    command = [sys.executable, "-m", "shards", "report", str(root), f"--out={page}"]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    seconds, processor = time.monotonic() - began, _child_seconds() - before
    opened = time.monotonic()
    browser.show(page.as_uri(), 1280, 900, "light")
    browser.evaluate(_DRAWN, wait=True)
    return [processor, seconds, page.stat().st_size / 1e6, 1000 * (time.monotonic() - opened)]


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, measured alternately")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    found: dict[str, list[list[float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder) / "browser") as browser:
        make_dir(Path(folder) / "shards")
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                page = Path(folder) / f"{name}.html"
                found[name].append(measure(checkout, Path(folder) / "shards", page, browser))
    medians = {name: list(map(statistics.median, zip(*rounds, strict=True))) for name, rounds in found.items()}
    for name, values in medians.items():
        shown = (f"{value:.2f} {column}" for value, column in zip(values, _COLUMNS, strict=True))
        print(f"{name}: {', '.join(shown)}")
    if options.before:
        ratios = (now / before for now, before in zip(medians["now"], medians["before"], strict=True))
        print(f"now / before: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
