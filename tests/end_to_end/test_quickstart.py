"""launch/quickstart.sh on a copy of the project with fewer pictures and iterations: interrupted, then to its end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from launch import sample
from launch.sample import LinkState
from tests.programs import ROOT, run

IMAGES = 240
# No environment is active, so that the copy uses its own .venv.
ENVIRONMENT = os.environ | {"PATH": "/usr/bin:/bin", "PYTHON": "", "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in a folder with a space in its name, small enough for a test."""
    folder = tmp_path_factory.mktemp("quickstart") / "a clone"
    for name in ("launch", "shards", "stylefinetune", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    change(folder / "configs/shards/quickstart.yaml", images=IMAGES, rows_per_shard=100)
    train = {"max_iter": 20, "test_interval": 10, "display": 5}
    change(folder / "configs/finetune/quickstart.yaml", train=train, checkpoint={"snapshot": 10})
    install(folder)
    return folder


def change(path, **keys):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def install(folder):
    """Do what launch/install.sh does without a download: make a .venv that uses the packages installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    inside = {"base": str(folder / ".venv"), "platbase": str(folder / ".venv")}
    packages = Path(sysconfig.get_path("purelib", "venv", inside))
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = folder / ".venv" / "bin" / "pip"
    pip.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n')
    pip.chmod(0o755)
    files = b"".join((folder / name).read_bytes() for name in ("pyproject.toml", "launch/constraints.txt"))
    stamp = subprocess.run(["cksum"], input=files, capture_output=True, check=True)
    (folder / ".venv" / "installed").write_bytes(stamp.stdout)


def quickstart(project):
    done = run(project / "launch" / "quickstart.sh", cwd="/", timeout=600, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ctrl_c_ends_it_and_its_server(project):
    with subprocess.Popen(
        [project / "launch" / "quickstart.sh"],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    ) as process:
        output = ""
        for line in process.stdout:
            output += line
            if "Downloading" in line:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(30) != 0
    assert "Starting." in output
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", output)[1])
    end = time.monotonic() + 10
    while listens(port):
        assert time.monotonic() < end, "its server still runs"
        time.sleep(0.1)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_shards_that_were_completed_without_the_server_are_not_taken_as_complete(project):
    """An assemble that outlives a killed quickstart does this. The next test shows that the rest is downloaded."""
    done = run(sys.executable, "-m", "shards", "assemble", "--config=configs/shards/quickstart.yaml", cwd=project)
    assert done.returncode == 1, done.stderr  # nothing was kept
    statuses = pq.read_table(project / "data/quickstart/outcomes.parquet").column("status").to_pylist()
    assert statuses.count("refused") > IMAGES / 4


def test_it_continues_and_its_summary_is_correct(project):
    output = quickstart(project)
    assert "Continuing where the last quickstart stopped." in output

    outcomes = pq.read_table(project / "data/quickstart/outcomes.parquet").to_pylist()
    kept = {int(row["key"]) for row in outcomes if row["status"] == "kept"}
    asked = {int(row["key"]) for row in outcomes}
    assert len(asked) == IMAGES
    assert kept == {index for index in asked if sample.link_state(index) in {LinkState.ALIVE, LinkState.RECOVERS}}
    assert f"{len(kept)} of {IMAGES} kept" in output

    entries = [json.loads(line) for line in (project / "runs/quickstart/metrics.jsonl").read_text().splitlines()]
    tests = [entry for entry in entries if entry["phase"] == "test"]
    assert [test["iteration"] for test in tests] == [0, 10, 20]
    first, last = tests[0]["accuracy"], tests[-1]["accuracy"]
    assert f"{first:.3f} untrained, {last:.3f} after 20 iterations" in output
    evaluated = run(sys.executable, "-m", "stylefinetune.evaluate", "runs/quickstart", cwd=project)
    accuracy = float(re.search(r"accuracy = ([\d.e-]+)", evaluated.stdout)[1])
    assert accuracy == pytest.approx(last, abs=1e-5)

    predicted = re.findall(r'^[\d.]+ - "(.*)"$', output, re.MULTILINE)
    assert len(predicted) == 5
    assert set(predicted) <= set(sample.style_names)
    for path in re.findall(r"(?:data|runs)/quickstart[\w/.]*", output[output.index("Done in") :]):
        assert (project / path.rstrip(".:")).exists(), path


def test_a_third_run_has_nothing_to_do(project):
    output = quickstart(project)
    assert "its shards are complete" in output
    assert "Downloading" not in output
    assert "Iteration" not in output.split("Done in")[0]


def test_a_change_starts_over(project):
    change(project / "configs/finetune/quickstart.yaml", train={"max_iter": 2, "test_interval": 1, "display": 1})
    output = quickstart(project)
    assert "Starting over" in output
    assert "after 2 iterations" in output
    assert sorted(path.name for path in (project / "runs/quickstart/checkpoints").iterdir()) == ["iter_2"]


def test_arguments_are_refused_in_one_line(project):
    done = run(project / "launch" / "quickstart.sh", "--images=5")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert run(project / "launch" / "quickstart.sh", "--help").stdout.startswith("Shows the whole project")
