"""launch/train.sh: a run on one node or two, its signals and its exit code."""

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
    """A checkout whose path has a space. The working folder is another one."""
    (tmp_path / "a checkout").symlink_to(ROOT)
    return tmp_path / "a checkout"


@dataclasses.dataclass
class Node:
    """launch/train.sh on one node."""

    script: subprocess.Popen
    run_dir: object
    output: object

    def wait_for(self, iteration):
        """Wait until the run has done `iteration` iterations."""
        end = time.monotonic() + 600
        while not ((self.run_dir / "metrics.jsonl").exists() and metrics(self.run_dir, "train")[iteration:]):
            assert self.script.poll() is None, self.read_output()
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait_until_resumed(self, times):
        """Wait until the run has resumed from a checkpoint `times` times."""
        end = time.monotonic() + 600
        while (self.run_dir / "train.log").read_text().count("Restoring previous solver status") < times:
            assert self.script.poll() is None, self.read_output()
            assert time.monotonic() < end
            time.sleep(0.1)
        self.wait_for(len(metrics(self.run_dir, "train")) + 5)

    def end(self):
        """Return its exit code and its output, once it has ended by itself."""
        return self.script.wait(timeout=400), self.read_output()

    def read_output(self):
        return self.output.read_text()


@pytest.fixture
def start(checkout, pixel_shards, tmp_path):
    """Start launch/train.sh; processes that a failed test leaves behind are killed."""
    with contextlib.ExitStack() as started:

        def start(run, *flags, **settings):
            # A file: a long run would fill a pipe and block.
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
    """Kill a script that still runs, and its children."""
    if script.poll() is None:
        children = psutil.Process(script.pid).children(recursive=True)
        for process in [*children, script]:
            process.kill()
        script.wait(timeout=30)


def two_nodes():
    """Return the settings of two nodes, both on this machine."""
    settings = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NPROC_PER_NODE": "1"}
    return [{**settings, "NODE_RANK": str(node)} for node in range(2)]


def exit_record(run_dir):
    return json.loads((run_dir / "exit.json").read_text())


def weights(run_dir):
    return (run_dir / "checkpoints" / "iter_100" / "model.safetensors").read_bytes()


def test_a_signal_stops_the_run_and_the_exit_code_is_the_runs(start):
    node = start("a run", "--train.max_iter=1000000", NPROC_PER_NODE="1")
    node.wait_for(5)
    node.script.send_signal(signal.SIGUSR1)
    code, output = node.end()
    assert code == 138, output
    assert exit_record(node.run_dir)["reason"] == "stopped"


@pytest.mark.slow
def test_a_run_that_is_stopped_on_one_node_and_then_on_two_ends_in_the_same_weights(start):
    uninterrupted = start("an uninterrupted run", NPROC_PER_NODE="2")
    assert uninterrupted.end()[0] == 0
    stopped = start("a stopped run", NPROC_PER_NODE="2")
    stopped.wait_for(20)
    stopped.script.send_signal(signal.SIGTERM)
    code, output = stopped.end()
    assert code == 143, output
    assert exit_record(stopped.run_dir)["reason"] == "stopped"
    iteration = exit_record(stopped.run_dir)["iteration"]
    nodes = [start("a stopped run", **settings) for settings in two_nodes()]
    nodes[0].wait_for(iteration + 5)
    nodes[1].script.send_signal(signal.SIGINT)  # node 0 runs the store, so the others would notice its end at once
    assert [node.end()[0] for node in nodes] == [130, 130]
    assert exit_record(stopped.run_dir)["requeue"] is False
    nodes = [start("a stopped run", **settings) for settings in two_nodes()]
    assert [node.end()[0] for node in nodes] == [0, 0]
    assert weights(stopped.run_dir) == weights(uninterrupted.run_dir)


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        (["--data.shards=no where"], {}, "error: data.shards: no where"),
        ([], {"NNODES": "two"}, "launch/train.sh: NNODES is two; it must be a number of nodes, or MIN:MAX"),
        ([], {"NNODES": "3:2"}, "launch/train.sh: NNODES is 3:2; the first number must not exceed the second"),
        ([], {"NPROC_PER_NODE": "0"}, "launch/train.sh: NPROC_PER_NODE is 0; it must be a number from 1 to 9999"),
        ([], {"NPROC_PER_NODE": "abc"}, "launch/train.sh: NPROC_PER_NODE is abc; it must be a number from 1 to 9999"),
        ([], {"MASTER_PORT": "99999"}, "launch/train.sh: MASTER_PORT is 99999; it must be a number from 0 to 65535"),
        (
            [],
            {"OMP_NUM_THREADS": "x"},
            "launch/train.sh: OMP_NUM_THREADS is x; it must be a number of threads, at least 1",
        ),
        (
            [],
            {"NNODES": "2", "MASTER_ADDR": "n1", "NODE_RANK": "2"},
            "launch/train.sh: NODE_RANK is 2; it must be a number",
        ),
        ([], {"NNODES": "2"}, "launch/train.sh: NNODES is 2; set MASTER_ADDR to node 0's name, on every node"),
        ([], {"NNODES": "2", "MASTER_ADDR": "n1"}, "launch/train.sh: NNODES is 2; set NODE_RANK to this node's number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(start, flags, settings, message):
    node = start("a run", *flags, **settings)
    code, output = node.end()
    assert code == 2
    (line,) = output.splitlines()
    assert line.startswith(message)
    assert not node.run_dir.exists()


@pytest.mark.slow
def test_an_elastic_run_continues_with_one_node_less_and_with_one_more(start):
    """torchrun waits 30 s for more nodes once it has the minimum."""
    settings = [{**node, "NNODES": "1:2"} for node in two_nodes()]
    # Eight batches an iteration: a joining node reads a checkpoint before the run removes it.
    slow = ["--train.iter_size=8", "--checkpoint.snapshot=20"]
    flags = ["--train.max_iter=1000000", *slow, "--train.test_interval=0"]
    nodes = [start("a run", *flags, **node) for node in settings]
    nodes[0].wait_for(20)
    end_all(nodes[1].script)  # a power cut
    nodes[0].wait_until_resumed(1)
    nodes[1] = start("a run", *flags, **settings[1])
    nodes[0].wait_until_resumed(2)
    for node in nodes:
        node.script.send_signal(signal.SIGTERM)
    assert [node.end()[0] for node in nodes] == [143, 143]
