"""Read and check the DIR of an assembly, and run assemblies as separate processes that a test can stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.loopback import Answer, LoopbackServer
from tests.programs import ROOT

NEVER = 10**9  # requests
VOLATILE = {"attempts", "seconds", "time", "message", "http_status"}  # columns that differ between two equal runs


def outcomes_by_row(root: Path) -> dict[int, dict]:
    return {row["row"]: row for row in pq.read_table(root / "outcomes.parquet").to_pylist()}


def stable_outcomes(root: Path) -> list[dict]:
    """Return the rows of outcomes.parquet without the volatile columns."""
    rows = pq.read_table(root / "outcomes.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


def statuses(root: Path) -> dict[int, str]:
    return {row: outcome["status"] for row, outcome in sorted(outcomes_by_row(root).items())}


def tars_and_index(root: Path) -> dict[str, bytes]:
    paths = [*sorted(root.glob("*/*.tar")), root / "index.parquet", *sorted(root.glob("blocks/*.index.parquet"))]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def assert_tidy(root: Path) -> None:
    """Check that no files of unfinished work, of a retry or of a block replacement remain."""
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


def block_picture(server: LoopbackServer, draw_jpg) -> None:
    """Leave requests for picture 7 unanswered, so that the driver is still running when it is killed."""
    server.add("/7.jpg", Answer(draw_jpg(7), after_requests=NEVER))


def unblock_picture(server: LoopbackServer, draw_jpg) -> None:
    server.add("/7.jpg", Answer(draw_jpg(7)))


def start_assemble(path: str, out: Path, *flags: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "shards", "assemble", f"--list={path}", f"--out={out}"]
    return subprocess.Popen(
        [*command, "--rows_per_shard=5", "--workers=2", *flags],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_imports(driver: "subprocess.Popen[str]") -> None:
    """Wait until the program imports packages; before that Python starts, where Ctrl-C is Python's affair."""
    deadline = time.monotonic() + 60
    while "/site-packages/" not in Path(f"/proc/{driver.pid}/maps").read_text():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_blocks(driver: "subprocess.Popen[str]", out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("blocks/*.outcomes.parquet"))) < count:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def child_processes(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    children = psutil.Process(driver.pid).children(recursive=True)
    assert "aria2c" in [child.name() for child in children]
    return children


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def corrupt_parquet(path: Path) -> None:
    """Flip a bit of a Parquet file so that Arrow raises neither an OSError nor a ValueError."""
    body = path.read_bytes()
    for position in reversed(range(len(body))):
        damaged = bytearray(body)
        damaged[position] ^= 4
        try:
            pq.read_table(pa.BufferReader(bytes(damaged)))
        except (OSError, ValueError):
            continue
        except pa.ArrowException:
            path.write_bytes(damaged)
            return
    raise AssertionError("no bit has that effect")
