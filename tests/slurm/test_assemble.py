"""slurm/assemble.sh and slurm/merge.sh on a real cluster: arrays, failing tasks, the power cut of a node."""

import json
import os
import subprocess
import time

import pytest

from shards.assembly.partition import blocks_of_partition, merge_partitions
from shards.config.schema import Partition
from shards.storage.shard_dir import load_shard_dir
from tests.assembly import assert_tidy, serve_pictures, stable_outcomes, tars_and_index
from tests.loopback import Answer
from tests.programs import ROOT, assemble

CHECKOUT = f"--chdir={ROOT}"

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster


@pytest.fixture
def job(slurm, server, draw_jpg, write_list, tmp_path):
    return Job(slurm, server, draw_jpg, write_list, tmp_path)


class Job:
    """A list of 96 pictures in 20 blocks, with a placeholder at 24 URLs, and the shards that one machine makes."""

    def __init__(self, slurm, server, draw_jpg, write_list, folder):
        self.slurm, self.server, self.draw_jpg, self.folder = slurm, server, draw_jpg, folder
        rows = serve_pictures(server, draw_jpg, 96)
        for number in range(1, 96, 4):
            server.add(f"/{number}.jpg", Answer(draw_jpg(1000)))
        self.path = write_list(rows, "a list.csv")
        self.one_machine, self.out = folder / "one machine", folder / "a DIR"
        assemble("--list", self.path, "--out", self.one_machine, "--rows_per_shard=5")
        server.requests.clear()

    def block_the_end_of(self, partition):
        """Let a picture of the partition's last block wait until it is released; return its number."""
        shard_dir = load_shard_dir(self.one_machine)
        rows = [row["row"] for row in shard_dir.rows_of(blocks_of_partition(shard_dir, partition)[-1])]
        number = next(row for row in rows if row % 4 != 1)
        self.server.add(f"/{number}.jpg", Answer(self.draw_jpg(number), after_requests=10**9))  # never answered
        return number

    def release(self, number):
        self.server.add(f"/{number}.jpg", Answer(self.draw_jpg(number)))

    def submit(self, array, *flags, sbatch=()):
        options = [CHECKOUT, f"--array={array}", f"--output={self.folder}/%a.txt", "--cpus-per-task=2", *sbatch]
        command = [ROOT / "slurm" / "assemble.sh", "--list", self.path, "--out", self.out, "--rows_per_shard=5"]
        return self.slurm.sbatch(*options, *command, *flags)

    def submit_merge(self, *options):
        out = f"--output={self.folder}/merge.txt"
        return self.slurm.sbatch(CHECKOUT, out, *options, ROOT / "slurm" / "merge.sh", self.out)

    def wait_until_all_but_the_last_block(self, partition, blocked):
        """Wait until the blocked picture has been requested and the partition's other blocks are committed."""
        end = time.monotonic() + 300
        *others, _ = blocks_of_partition(load_shard_dir(self.one_machine), partition)
        parts = [self.out / block.outcomes_part for block in others]
        while not (self.server.request_times(f"/{blocked}.jpg") and all(part.exists() for part in parts)):
            assert time.monotonic() < end, self.output(partition.index)
            time.sleep(0.1)

    def output(self, task):
        return (self.folder / f"{task}.txt").read_text()

    def assert_same_as_one_machine(self):
        assert tars_and_index(self.out) == tars_and_index(self.one_machine)
        assert stable_outcomes(self.out) == stable_outcomes(self.one_machine)
        assert_tidy(self.out)


def states(tasks):
    return [task["JobState"] for task in tasks]


def test_an_array_and_a_merge_job_make_the_same_as_one_machine(job):
    array = job.submit("0-3")
    merging = job.submit_merge(f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes")
    assert states(job.slurm.wait(array)) == ["COMPLETED"] * 4
    assert states(job.slurm.wait(merging)) == ["COMPLETED"]
    job.assert_same_as_one_machine()
    second = job.submit_merge()
    assert states(job.slurm.wait(second)) == ["COMPLETED"]
    job.assert_same_as_one_machine()
    assert "Partition 3/4 is complete" in job.output(3)


@pytest.mark.slow
def test_a_task_that_is_killed_fails_and_continues_when_it_is_requeued(job):
    blocked = job.block_the_end_of(Partition(1, 2))
    array = job.submit("0,1")
    job.wait_until_all_but_the_last_block(Partition(1, 2), blocked)
    job.slurm.run("scancel", "--signal=KILL", f"{array}_1.0")  # what srun started there
    assert sorted(states(job.slurm.wait(array))) == ["COMPLETED", "FAILED"]
    job.release(blocked)
    too_early = job.submit_merge()
    assert states(job.slurm.wait(too_early)) == ["FAILED"]
    output = (job.folder / "merge.txt").read_text()
    assert "partition 1/2: 1 missing; run assemble --partition 1/2 to make them" in output
    job.slurm.run("scontrol", "requeue", f"{array}_1")
    assert states(job.slurm.wait(array)) == ["COMPLETED"] * 2
    # For Slurm 22.05 the task has failed for good: a merge that depends on the array would never start.
    assert states(job.slurm.wait(job.submit_merge())) == ["COMPLETED"]
    assert "were done before; resuming in" in job.output(1)  # appended to the first start's output
    job.assert_same_as_one_machine()


@pytest.mark.slow
def test_a_nodes_power_cut_moves_its_task_to_another_node(job):
    blocked = job.block_the_end_of(Partition(1, 2))
    array = job.submit("0-1", sbatch=["--exclusive"])
    merging = job.submit_merge(f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes")
    job.wait_until_all_but_the_last_block(Partition(1, 2), blocked)
    lock = json.loads((job.out / ".work" / "1-of-2.lock").read_text())
    assert f"Slurm job {array}_1" in lock["process"]
    node = next(task["NodeList"] for task in job.slurm.show(array) if task["ArrayTaskId"] == "1")
    try:
        job.slurm.kill_node(node)
        job.release(blocked)
        tasks = job.slurm.wait(array)
        moved = next(task for task in tasks if task["ArrayTaskId"] == "1")
        assert states(tasks) == ["COMPLETED"] * 2
        assert moved["Restarts"] == "1"
        assert moved["NodeList"] != node
        assert states(job.slurm.wait(merging)) == ["COMPLETED"]
    finally:
        job.slurm.start_node(node)
    job.assert_same_as_one_machine()


@pytest.mark.slow
def test_some_tasks_are_submitted_again_as_parts_of_the_array(job):
    first = job.submit("0,2", "--partitions", "4")
    assert states(job.slurm.wait(first)) == ["COMPLETED"] * 2
    rest = job.submit("1,3", "--partitions=4", "--workers", "1")
    assert states(job.slurm.wait(rest)) == ["COMPLETED"] * 2
    assert "with 2 workers" in job.output(0)
    assert "with 1 worker" in job.output(3)
    assert merge_partitions(job.out).missing == {}
    job.assert_same_as_one_machine()


@pytest.mark.parametrize(
    ("array", "flags", "message"),
    [
        ("1,3", [], "an array of 2 from 1 to 3 isn't all of 0 to n - 1; give the number of all partitions"),
        ("5", ["--partitions", "4"], "task 5 isn't one of 4 partitions"),
        ("0", ["--partitions", "few"], "--partitions is few; it must be a number"),
        ("0", ["--partition", "0/2"], "--partition comes from the array"),
        ("0", ["--nonsense", "1"], "unknown flag --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(job, array, flags, message):
    tasks = job.slurm.wait(job.submit(array, *flags))
    assert [task["ExitCode"] for task in tasks] == ["2:0"] * len(tasks)
    lines = [line for line in job.output(array[0]).splitlines() if message in line]
    assert len(lines) == 1
    assert not job.out.exists()


@pytest.mark.parametrize("script", ["assemble.sh", "merge.sh"])
def test_a_folder_that_is_not_the_checkout_is_reported(slurm, tmp_path, script):
    job = slurm.sbatch(f"--chdir={tmp_path}", f"--output={tmp_path}/o.txt", ROOT / "slurm" / script, tmp_path / "DIR")
    assert [task["ExitCode"] for task in slurm.wait(job)] == ["2:0"]
    assert f"{tmp_path} is not the checkout; submit from the checkout" in (tmp_path / "o.txt").read_text()


@pytest.mark.parametrize("script", ["assemble.sh", "merge.sh"])
def test_a_job_script_that_is_run_by_hand_prints_how_to_submit_it(script):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([ROOT / "slurm" / script], env=bare, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "submit it: sbatch" in done.stderr


def test_without_an_array_one_job_assembles_everything(job):
    options = [CHECKOUT, f"--output={job.folder}/0.txt", ROOT / "slurm" / "assemble.sh"]
    one = job.slurm.sbatch(*options, "--list", job.path, "--out", job.out, "--rows_per_shard=5")
    assert states(job.slurm.wait(one)) == ["COMPLETED"]
    job.assert_same_as_one_machine()
