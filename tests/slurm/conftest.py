"""A real Slurm cluster of three virtual nodes on this machine, which lasts for the session."""

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
    """Submit jobs, wait for them and cut the power of nodes."""

    def __init__(self, base):
        self.base = base
        # If the tests run inside a job, they must not pass its allocation on.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.env |= {"SLURM_CONF": f"{base}/etc/slurm.conf", "PATH": SBIN}

    def run(self, *command):
        done = subprocess.run(
            [str(part) for part in command], env=self.env, text=True, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sbatch(self, *arguments):
        """Submit a job and return its id."""
        return self.run("sbatch", "--parsable", *arguments).split(";")[0]

    def show(self, job):
        """Return Slurm's description of each task of a job."""
        shown = self.run("scontrol", "-o", "show", "job", job).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown]

    def wait(self, job, timeout=400):
        """Wait until every task of a job has ended; `sbatch --wait` polls too rarely."""
        end = time.monotonic() + timeout
        tasks = self.show(job)
        while any(task["JobState"] in BUSY for task in tasks):
            assert time.monotonic() < end, tasks
            time.sleep(0.3)
            tasks = self.show(job)
        return tasks

    def kill_node(self, node):
        """Cut the power of a node."""
        subprocess.run([HERE / "node-kill.sh", self.base, node], check=True, timeout=120)

    def start_node(self, node):
        """Start a node again, and wait until jobs can run there."""
        subprocess.run([HERE / "node-up.sh", self.base, node], check=True, timeout=120)
        end = time.monotonic() + 120
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
    base = tempfile.mkdtemp(prefix="sl")  # short: the paths of Unix sockets begin with it
    try:
        up = subprocess.run(
            [HERE / "up.sh", base, str(NODES)],
            timeout=200,
            check=False,
            capture_output=True,
            text=True,
            env=Cluster(base).env,
        )
        assert up.returncode == 0, up.stdout + up.stderr
        yield Cluster(base)
    finally:
        subprocess.run([HERE / "down.sh", base], timeout=200, check=True)
        shutil.rmtree(base, ignore_errors=True)
