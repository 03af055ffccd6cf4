"""launch/train.sh: a run on one node or two, its signals, and the exit code that is the run's own."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.programs import NARROW, ROOT, free_port, metrics

FLAGS = [
    *NARROW,
    "--train.max_iter=100",
    "--train.display=1",
    "--train.test_interval=40",
    "--checkpoint.snapshot=20",
    "--checkpoint.keep_last=2",
]


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose path has a space; the working folder is another one."""
    (tmp_path / "a checkout").symlink_to(ROOT)
    return tmp_path / "a checkout"


@dataclasses.dataclass
class Node:
    """launch/train.sh on one node."""

    script: subprocess.Popen
    run_dir: object
    output: object

    def wait_for(self, iteration):
        """Waits until the run is there."""
        end = time.monotonic() + 240
        while not ((self.run_dir / "metrics.jsonl").exists() and metrics(self.run_dir, "train")[iteration:]):
            assert self.script.poll() is None, self.said()
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait_until_resumed(self, times):
        """Waits until the run has gone on from a checkpoint so many times."""
        end = time.monotonic() + 240
        while (self.run_dir / "train.log").read_text().count("Restoring previous solver status") < times:
            assert self.script.poll() is None, self.said()
            assert time.monotonic() < end
            time.sleep(0.1)
        self.wait_for(len(metrics(self.run_dir, "train")) + 5)

    def end(self):
        """Returns its exit code and what it said, once it has ended by itself."""
        return self.script.wait(timeout=400), self.said()

    def said(self):
        return self.output.read_text()


@pytest.fixture
def start(checkout, pixel_shards, tmp_path):
    """Starts launch/train.sh; what a failed test leaves is ended."""
    with contextlib.ExitStack() as started:

        def start(run, *flags, **settings):
            # Not pipes, which a long run would fill and wait at.
            output = Path(started.enter_context(tempfile.NamedTemporaryFile(dir=tmp_path)).name)
            script = subprocess.Popen(
                [
                    checkout / "launch" / "train.sh",
                    *FLAGS,
                    f"--data.shards={pixel_shards}",
                    f"--run_dir={tmp_path / run}",
                    *flags,
                ],
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
            )
            started.callback(end_all, script)
            return Node(script, tmp_path / run, output)

        yield start


def end_all(script):
    """Kills what is left of a script that is still there."""
    if script.poll() is None:
        left = psutil.Process(script.pid).children(recursive=True)
        for process in [*left, script]:
            process.kill()
        script.wait(timeout=30)


def two_nodes():
    """Returns the settings of two nodes, both of them this machine."""
    each = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NPROC_PER_NODE": "1"}
    return [{**each, "NODE_RANK": str(node)} for node in range(2)]


def ending(run_dir):
    return json.loads((run_dir / "exit.json").read_text())


def weights(run_dir):
    return (run_dir / "checkpoints" / "iter_100" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_one_node_and_two_stopped_and_started_again_end_in_the_same_weights(start):
    quiet = start("a quiet run", NPROC_PER_NODE="2")
    assert quiet.end()[0] == 0
    parted = start("a parted run", NPROC_PER_NODE="2")
    parted.wait_for(20)
    parted.script.send_signal(signal.SIGTERM)
    code, said = parted.end()
    assert code == 143, said
    assert ending(parted.run_dir)["reason"] == "stopped"
    at = ending(parted.run_dir)["iteration"]
    nodes = [start("a parted run", **settings) for settings in two_nodes()]
    nodes[0].wait_for(at + 5)
    nodes[1].script.send_signal(signal.SIGINT)  # node 0 holds the store, so that the others miss it at once
    assert [node.end()[0] for node in nodes] == [130, 130]
    assert ending(parted.run_dir)["requeue"] is False
    nodes = [start("a parted run", **settings) for settings in two_nodes()]
    assert [node.end()[0] for node in nodes] == [0, 0]
    assert weights(parted.run_dir) == weights(quiet.run_dir)


@pytest.mark.parametrize(
    ("flags", "settings", "said"),
    [
        (["--train.max_itr=3"], {}, "error: unknown key train.max_itr; did you mean train.max_iter?"),
        (["--data.shards=no where"], {}, "error: data.shards: no where"),
        ([], {"NNODES": "two"}, "launch/train.sh: NNODES is two; it must be a number of nodes, or MIN:MAX"),
        ([], {"NNODES": "2"}, "launch/train.sh: NNODES is 2; set MASTER_ADDR to node 0's name, on every node"),
        ([], {"NNODES": "2", "MASTER_ADDR": "n1"}, "launch/train.sh: NNODES is 2; set NODE_RANK to this node's number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(start, flags, settings, said):
    node = start("a run", *flags, **settings)
    code, told = node.end()
    assert code == 2
    (line,) = told.splitlines()
    assert line.startswith(said)
    assert not node.run_dir.exists()


def test_help_is_how_it_is_called():
    done = subprocess.run([ROOT / "launch" / "train.sh", "--help"], capture_output=True, text=True, check=True)
    assert "launch/train.sh --config FILE" in done.stdout


@pytest.mark.slow
def test_an_elastic_run_goes_on_with_the_node_that_is_left_and_with_one_that_comes(start):
    """torchrun waits 30 s for further nodes when there are as many as it needs."""
    settings = [{**each, "NNODES": "1:2"} for each in two_nodes()]
    flags = ["--train.max_iter=1000000", "--checkpoint.snapshot=5", "--train.test_interval=0"]
    nodes = [start("a run", *flags, **each) for each in settings]
    nodes[0].wait_for(20)
    end_all(nodes[1].script)  # a power cut
    nodes[0].wait_until_resumed(1)
    nodes[1] = start("a run", *flags, **settings[1])
    nodes[0].wait_until_resumed(2)
    for node in nodes:
        node.script.send_signal(signal.SIGTERM)
    assert [node.end()[0] for node in nodes] == [143, 143]
