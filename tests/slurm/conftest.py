"""A real Slurm cluster of three virtual nodes on this machine, for the length of the session."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.shards.conftest import draw_jpg, write_list  # noqa: F401 - fixtures

HERE = Path(__file__).parent
NODES = 3
BUSY = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED"}
SBIN = os.environ["PATH"] + ":/usr/sbin:/sbin"


class Cluster:
    """Submits jobs, waits for them and cuts nodes' power."""

    def __init__(self, base):
        self.base = base
        # A suite that itself runs inside a job must not hand its allocation on.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.env |= {"SLURM_CONF": f"{base}/etc/slurm.conf", "PATH": SBIN}

    def run(self, *command):
        done = subprocess.run(
            [str(part) for part in command], env=self.env, text=True, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sbatch(self, *arguments):
        """Submits a job and returns its id."""
        return self.run("sbatch", "--parsable", *arguments).split(";")[0]

    def show(self, job):
        """Returns what Slurm says of each task of a job."""
        shown = self.run("scontrol", "-o", "show", "job", job).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown]

    def wait(self, job, timeout=100):
        """Waits until every task of a job has ended; `sbatch --wait` looks too rarely."""
        end = time.monotonic() + timeout
        tasks = self.show(job)
        while any(task["JobState"] in BUSY for task in tasks):
            assert time.monotonic() < end, tasks
            time.sleep(0.3)
            tasks = self.show(job)
        return tasks

    def kill_node(self, node):
        """Cuts its power."""
        subprocess.run([HERE / "node-kill.sh", self.base, node], check=True, timeout=30)

    def start_node(self, node):
        """Brings it back, and waits until jobs may run there."""
        subprocess.run([HERE / "node-up.sh", self.base, node], check=True, timeout=30)
        end = time.monotonic() + 30
        while self.run("sinfo", "-h", "-n", node, "-o", "%T") not in {"idle", "mixed"}:
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture(scope="session")
def slurm():
    missing = [
        name for name in ("slurmctld", "slurmd", "munged", "sbatch", "srun") if not shutil.which(name, path=SBIN)
    ]
    if missing:
        pytest.skip(f"{missing[0]} is missing; tests/slurm/install.sh installs Debian's Slurm")
    base = tempfile.mkdtemp(prefix="sl")  # short: unix sockets lie under it
    try:
        up = subprocess.run(
            [HERE / "up.sh", base, str(NODES)],
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
            env=Cluster(base).env,
        )
        assert up.returncode == 0, up.stdout + up.stderr
        yield Cluster(base)
    finally:
        subprocess.run([HERE / "down.sh", base], timeout=60, check=True)
        shutil.rmtree(base, ignore_errors=True)
