"""What an assembly leaves in its DIR, and assemblies as programs of their own that can be stopped at any moment."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.loopback import Answer, LoopbackServer
from tests.programs import ROOT

VOLATILE = {"attempts", "seconds", "time", "message", "http_status"}  # what may differ from run to run


def ledger(root: Path) -> dict[int, dict]:
    return {row["row"]: row for row in pq.read_table(root / "outcomes.parquet").to_pylist()}


def lasting(root: Path) -> list[dict]:
    """Returns the ledger without what may differ from run to run."""
    rows = pq.read_table(root / "outcomes.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


def statuses(root: Path) -> dict[int, str]:
    return {row: line["status"] for row, line in sorted(ledger(root).items())}


def tars_and_index(root: Path) -> dict[str, bytes]:
    paths = [*sorted(root.glob("*/*.tar")), root / "index.parquet", *sorted(root.glob("blocks/*.index.parquet"))]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def assert_tidy(root: Path) -> None:
    """Nothing is left of work that was under way, nor of a retry or a replacement."""
    assert not (root / ".work").exists()
    known = {"rows.parquet", "rules.json"}
    others = {path.name for path in (root / "blocks").iterdir()} - known
    assert {name.partition(".")[2] for name in others} <= {"index.parquet", "outcomes.parquet"}
    assert {path.name for path in root.iterdir()} - {"train", "test"} == {"blocks", "index.parquet", "outcomes.parquet"}
    assert {path.suffix for split in ("train", "test") for path in (root / split).glob("*")} <= {".tar"}


def serve_pictures(server: LoopbackServer, draw_jpg, count: int) -> list[dict]:
    return [
        {"image_url": server.add(f"/{number}.jpg", Answer(draw_jpg(number))), "label": number % 3}
        | {"_split": "train" if number % 5 else "test"}
        for number in range(count)
    ]


def start(path: str, out: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "shards", "assemble", f"--list={path}", f"--out={out}"]
    return subprocess.Popen(
        [*command, "--rows_per_shard=5", "--workers=2", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_blocks(driver: "subprocess.Popen[str]", out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("blocks/*.outcomes.parquet"))) < count:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def family_of(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    family = psutil.Process(driver.pid).children(recursive=True)
    assert "aria2c" in [child.name() for child in family]
    return family


def assert_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def misread(path: Path) -> None:
    """Flips a bit of a Parquet file so that Arrow's error is neither an OSError nor a ValueError."""
    body = path.read_bytes()
    for place in reversed(range(len(body))):
        damaged = bytearray(body)
        damaged[place] ^= 4
        try:
            pq.read_table(pa.BufferReader(bytes(damaged)))
        except (OSError, ValueError):
            continue
        except pa.ArrowException:
            path.write_bytes(damaged)
            return
    raise AssertionError("no bit does that")
