import csv
import io

import cv2
import numpy as np
import pytest
from rich.console import Console

from shards.assembly.assemble import assemble
from shards.config.schema import AssembleConfig


@pytest.fixture(scope="session")
def draw_jpg():
    """Draw a smooth JPEG that is different for each number."""

    def draw(number: int, height: int = 60, width: int = 90) -> bytes:
        coarse = np.random.default_rng(number).integers(0, 256, (6, 9, 3), np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return cv2.imencode(".jpg", picture)[1].tobytes()

    return draw


@pytest.fixture
def write_list(tmp_path):
    """Write rows, dicts with the same keys, as a CSV list, and return its path."""

    def write(rows: list[dict], name: str = "list.csv") -> str:
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return str(tmp_path / name)

    return write


@pytest.fixture
def run_assemble(tmp_path):
    """Assemble in this process, by default into tmp_path/out, and return the console's output."""

    def run(**settings) -> str:
        text = io.StringIO()
        settings = {"out": tmp_path / "out", "workers": 2} | settings
        assemble(AssembleConfig(**settings), Console(file=text, width=100))
        return text.getvalue()

    return run
