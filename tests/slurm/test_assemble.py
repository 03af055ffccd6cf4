"""slurm/assemble.sh and slurm/merge.sh on a real cluster: arrays, failing tasks, a node's power cut in the middle."""

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


@pytest.fixture
def job(slurm, server, draw_jpg, write_list, tmp_path):
    return Job(slurm, server, draw_jpg, write_list, tmp_path)


class Job:
    """A list of 96 pictures in 20 blocks, one placeholder under 24 of the URLs, and what one machine makes of it."""

    def __init__(self, slurm, server, draw_jpg, write_list, folder):
        self.slurm, self.server, self.draw_jpg, self.folder = slurm, server, draw_jpg, folder
        rows = serve_pictures(server, draw_jpg, 96)
        for number in range(1, 96, 4):
            server.add(f"/{number}.jpg", Answer(draw_jpg(1000)))
        self.path = write_list(rows, "a list.csv")
        self.once, self.out = folder / "once", folder / "a DIR"
        assemble("--list", self.path, "--out", self.once, "--rows_per_shard=5")
        server.requests.clear()

    def hold_the_end_of(self, partition):
        """Has a picture of the partition's last block wait until it is released; returns its number."""
        shard_dir = load_shard_dir(self.once)
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

    def wait_until_all_but_the_last_block(self, partition, held):
        """Waits until the held picture has been asked for and the partition's other blocks are committed."""
        end = time.monotonic() + 60
        others = [
            self.out / block.outcomes_part for block in blocks_of_partition(load_shard_dir(self.once), partition)[:-1]
        ]
        while not (self.server.request_times(f"/{held}.jpg") and all(part.exists() for part in others)):
            assert time.monotonic() < end, self.told(partition.index)
            time.sleep(0.1)

    def told(self, task):
        return (self.folder / f"{task}.txt").read_text()

    def assert_as_once(self):
        assert tars_and_index(self.out) == tars_and_index(self.once)
        assert stable_outcomes(self.out) == stable_outcomes(self.once)
        assert_tidy(self.out)


def states(tasks):
    return [task["JobState"] for task in tasks]


def test_an_array_and_a_merge_that_depends_on_it_make_what_one_machine_makes(job):
    array = job.submit("0-3")
    merging = job.submit_merge(f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes")
    assert states(job.slurm.wait(array)) == ["COMPLETED"] * 4
    assert states(job.slurm.wait(merging)) == ["COMPLETED"]
    job.assert_as_once()
    again = job.submit_merge()
    assert states(job.slurm.wait(again)) == ["COMPLETED"]
    job.assert_as_once()
    assert "Partition 3/4 is done" in job.told(3)


def test_a_task_that_is_killed_fails_and_goes_on_when_it_is_requeued(job):
    held = job.hold_the_end_of(Partition(1, 2))
    array = job.submit("0,1")
    job.wait_until_all_but_the_last_block(Partition(1, 2), held)
    job.slurm.run("scancel", "--signal=KILL", f"{array}_1.0")  # what srun started there
    assert sorted(states(job.slurm.wait(array))) == ["COMPLETED", "FAILED"]
    job.release(held)
    too_early = job.submit_merge()
    assert states(job.slurm.wait(too_early)) == ["FAILED"]
    said = (job.folder / "merge.txt").read_text()
    assert "partition 1/2: 1 missing; run assemble --partition 1/2 to make them" in said
    job.slurm.run("scontrol", "requeue", f"{array}_1")
    assert states(job.slurm.wait(array)) == ["COMPLETED"] * 2
    # Slurm 22.05 doesn't take back that a task of the array has failed: a merge that depends on it would never start.
    assert states(job.slurm.wait(job.submit_merge())) == ["COMPLETED"]
    assert "were done before; resuming in" in job.told(1)  # appended to what the first start said
    job.assert_as_once()


@pytest.mark.slow
def test_a_nodes_power_cut_moves_its_task_to_another_node_which_finishes_it(job):
    held = job.hold_the_end_of(Partition(1, 2))
    array = job.submit("0-1", sbatch=["--exclusive"])
    merging = job.submit_merge(f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes")
    job.wait_until_all_but_the_last_block(Partition(1, 2), held)
    lock = json.loads((job.out / ".work" / "1-of-2.lock").read_text())
    assert f"Slurm job {array}_1" in lock["process"]
    node = next(task["NodeList"] for task in job.slurm.show(array) if task["ArrayTaskId"] == "1")
    try:
        job.slurm.kill_node(node)
        job.release(held)
        tasks = job.slurm.wait(array, timeout=150)
        moved = next(task for task in tasks if task["ArrayTaskId"] == "1")
        assert states(tasks) == ["COMPLETED"] * 2
        assert moved["Restarts"] == "1"
        assert moved["NodeList"] != node
        assert states(job.slurm.wait(merging)) == ["COMPLETED"]
    finally:
        job.slurm.start_node(node)
    job.assert_as_once()


def test_some_tasks_are_submitted_again_as_parts_of_the_whole_array(job):
    first = job.submit("0,2", "--partitions", "4")
    assert states(job.slurm.wait(first)) == ["COMPLETED"] * 2
    rest = job.submit("1,3", "--partitions=4", "--workers", "1")
    assert states(job.slurm.wait(rest)) == ["COMPLETED"] * 2
    assert "with 2 workers" in job.told(0)
    assert "with 1 workers" in job.told(3)
    assert merge_partitions(job.out).missing == {}
    job.assert_as_once()


@pytest.mark.parametrize(
    ("array", "flags", "said"),
    [
        ("1,3", [], "an array of 2 from 1 to 3 isn't all of 0 to n - 1; say how many partitions there are in all"),
        ("5", ["--partitions", "4"], "task 5 isn't one of 4 partitions"),
        ("0", ["--partitions", "few"], "--partitions is few; it must be a number"),
        ("0", ["--partition", "0/2"], "--partition comes from the array"),
        ("0", ["--nonsense", "1"], "unknown flag --nonsense"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_code_2(job, array, flags, said):
    tasks = job.slurm.wait(job.submit(array, *flags))
    assert [task["ExitCode"] for task in tasks] == ["2:0"] * len(tasks)
    lines = [line for line in job.told(array[0]).splitlines() if said in line]
    assert len(lines) == 1
    assert not job.out.exists()


@pytest.mark.parametrize("script", ["assemble.sh", "merge.sh"])
def test_a_folder_without_the_project_is_named(slurm, tmp_path, script):
    job = slurm.sbatch(f"--chdir={tmp_path}", f"--output={tmp_path}/o.txt", ROOT / "slurm" / script, tmp_path / "DIR")
    assert [task["ExitCode"] for task in slurm.wait(job)] == ["2:0"]
    assert (
        f"no shards/ and .venv/bin/python in {tmp_path}; submit from the checkout" in (tmp_path / "o.txt").read_text()
    )


@pytest.mark.parametrize("script", ["assemble.sh", "merge.sh"])
def test_a_job_script_that_is_run_by_hand_says_how_it_is_submitted(script):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([ROOT / "slurm" / script], env=bare, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert "submit it: sbatch" in done.stderr


def test_without_an_array_one_job_makes_all_of_it(job):
    options = [CHECKOUT, f"--output={job.folder}/0.txt", ROOT / "slurm" / "assemble.sh"]
    one = job.slurm.sbatch(*options, "--list", job.path, "--out", job.out, "--rows_per_shard=5")
    assert states(job.slurm.wait(one)) == ["COMPLETED"]
    job.assert_as_once()
