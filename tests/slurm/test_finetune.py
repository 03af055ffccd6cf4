"""slurm/finetune.sh on a real cluster: whatever becomes of a job, its last weights are bitwise those of a quiet run."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.programs import NARROW, ROOT, metrics

ITERATIONS = 100
FLAGS = [
    *NARROW,
    f"--train.max_iter={ITERATIONS}",
    "--train.display=1",
    "--train.test_interval=50",
    "--checkpoint.snapshot=10",
    "--checkpoint.keep_last=2",
    "--checkpoint.keep_every=20",
]
SMALL = ["--cpus-per-task=2", "--mem=4G"]
TWO_NODES = ["--nodes=2", "--gpus-per-node=2"]
USR1 = 1 << (signal.SIGUSR1 - 1)


def pending(process):
    """Returns the signals that wait for a process, as a mask."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[1], 16)


class Job:
    """A job of two nodes with two ranks each, and what its run leaves."""

    def __init__(self, slurm, shards, checkout, folder):
        self.slurm, self.shards, self.checkout, self.folder = slurm, shards, checkout, folder
        self.run_dir = folder / "a run"
        self.id = None

    def submit(self, *flags, sbatch=TWO_NODES, **settings):
        options = [
            f"--chdir={self.checkout}",
            f"--output={self.folder}/out.txt",
            "--cpus-per-task=2",
            "--mem=4G",
            *sbatch,
        ]
        told = [f"--export=ALL,OMP_NUM_THREADS=1{''.join(f',{name}={value}' for name, value in settings.items())}"]
        command = [ROOT / "slurm" / "finetune.sh", *FLAGS, f"--data.shards={self.shards}", f"--run_dir={self.run_dir}"]
        self.id = self.slurm.sbatch(*options, *told, *command, *flags)
        return self

    def wait_for(self, iteration):
        """Waits until the run is there, and returns what Slurm says of the job."""
        end = time.monotonic() + 120
        file = self.run_dir / "metrics.jsonl"
        while not file.exists() or file.read_text().count('"phase": "train"') <= iteration:
            assert time.monotonic() < end, self.said()
            time.sleep(0.01)
        return self.slurm.show(self.id)[0]

    def workers(self):
        """Returns the processes of its ranks, whatever node they are on."""
        each = [process.info for process in psutil.process_iter(["pid", "ppid", "cmdline"])]
        ours = {info["pid"]: info for info in each if f"--run_dir={self.run_dir}" in (info["cmdline"] or [])}
        agents = {pid for pid, info in ours.items() if "torch.distributed.run" in info["cmdline"]}
        return [psutil.Process(pid) for pid, info in ours.items() if info["ppid"] in agents]

    def stand_still_until_signalled(self):
        """Suspends all ranks, as slow storage would, until USR1 waits for one of them."""
        ranks, end = self.workers(), time.monotonic() + 70
        for rank in ranks:
            rank.suspend()
        try:
            while not any(USR1 & pending(rank) for rank in ranks):
                assert time.monotonic() < end, self.said()
                time.sleep(0.1)
        finally:
            for rank in ranks:
                rank.resume()

    def end(self, timeout=150):
        """Waits for the end and returns what Slurm says of the job."""
        (task,) = self.slurm.wait(self.id, timeout)
        return task

    def said(self):
        return (self.folder / "out.txt").read_text()

    def ending(self):
        return json.loads((self.run_dir / "exit.json").read_text())

    def last(self):
        """The bytes of the last checkpoint, and what metrics.jsonl tells but for speed."""
        folder = self.run_dir / "checkpoints" / f"iter_{ITERATIONS}"
        files = ("model.safetensors", "optimizer.safetensors", "progress.json")
        keys = ("iteration", "loss", "lr", "accuracy", "correct", "count")
        told = [[e.get(key) for key in keys] for phase in ("train", "test") for e in metrics(self.run_dir, phase)]
        return [(folder / file).read_bytes() for file in files], told


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A checkout whose path has a space."""
    link = tmp_path_factory.mktemp("checkout") / "a checkout"
    link.symlink_to(ROOT)
    return link


@pytest.fixture
def job(slurm, pixel_shards, checkout, tmp_path):
    job = Job(slurm, pixel_shards, checkout, tmp_path)
    yield job
    if job.id:
        slurm.run("scancel", "--quiet", job.id)


@pytest.fixture(scope="module")
def quiet(slurm, pixel_shards, checkout, tmp_path_factory):
    """A job that nothing happens to."""
    job = Job(slurm, pixel_shards, checkout, tmp_path_factory.mktemp("quiet")).submit()
    assert (job.end()["JobState"], job.ending()["reason"]) == ("COMPLETED", "finished"), job.said()
    return job


def test_two_nodes_of_two_ranks_train_to_the_end(quiet):
    assert "requeue" not in quiet.said()
    assert len(metrics(quiet.run_dir, "train")) == ITERATIONS


def test_deepspeed_is_one_setting_more_and_its_weights_are_ddps(job, quiet):
    task = job.submit("--engine=deepspeed", "--train.max_iter=20").end()
    assert (task["JobState"], task["ExitCode"]) == ("COMPLETED", "0:0"), job.said()
    assert (job.run_dir / "deepspeed.log").stat().st_size > 0
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(at.run_dir / "checkpoints" / "iter_20" / file) for at in (job, quiet))
        assert ours.keys() == theirs.keys()
        assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-6, file


@pytest.mark.slow
def test_a_job_goes_on_after_its_time_limit_and_after_a_requeue_by_hand(job, quiet):
    """Slurm takes limits by the minute, looks each half minute, and may send the signal a minute sooner than asked."""
    job.submit(sbatch=[*TWO_NODES, "--time=1", "--signal=B:USR1@10"]).wait_for(5)
    too_slow = job.said().count("requeueing job")  # on a machine that takes 20 s to get here
    job.stand_still_until_signalled()
    while job.said().count("requeueing job") == too_slow:
        assert job.slurm.show(job.id)[0]["JobState"] == "RUNNING", job.said()
        time.sleep(0.1)
    job.slurm.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=10")
    first = job.ending()
    assert (first["code"], first["signal"], first["requeue"]) == (138, "SIGUSR1", True)
    assert first["checkpoint"] == f"{job.run_dir}/checkpoints/iter_{first['iteration']}"
    job.wait_for(first["iteration"] + 5)
    job.slurm.run("scontrol", "requeue", job.id)
    task = job.end()
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("COMPLETED", "0:0", f"{too_slow + 2}"), job.said()
    assert job.said().count("Restoring previous solver status from") >= 2
    assert job.last() == quiet.last()


def test_a_killed_worker_has_torchrun_start_all_ranks_anew(job, quiet):
    job.submit().wait_for(20)
    workers = job.workers()
    assert len(workers) == 4
    workers[-1].kill()
    task = job.end()
    assert (task["JobState"], task["Restarts"]) == ("COMPLETED", "0"), job.said()
    assert job.ending()["restarts"] > 0
    assert job.last() == quiet.last()


@pytest.mark.slow
def test_a_nodes_power_cut_moves_the_job_to_a_spare_node_which_finishes_it(job, quiet):
    task = job.submit().wait_for(20)
    _, node = job.slurm.run("scontrol", "show", "hostnames", task["NodeList"]).split()
    try:
        job.slurm.kill_node(node)
        task = job.end()
        assert (task["JobState"], task["Restarts"]) == ("COMPLETED", "1"), job.said()
        assert node not in job.slurm.run("scontrol", "show", "hostnames", task["NodeList"]).split()
    finally:
        job.slurm.start_node(node)
    assert job.last() == quiet.last()


def test_the_jobs_exit_code_is_the_runs(job):
    job.submit("--train.max_iter=100000", sbatch=["--gpus-per-node=0"], NPROC_PER_NODE="1").wait_for(20)
    job.slurm.run("scancel", "--signal=INT", f"{job.id}.0")  # what srun started
    task = job.end()
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("FAILED", "130:0", "0"), job.said()
    assert job.ending()["reason"] == "stopped"


@pytest.mark.parametrize(
    ("flags", "sbatch", "said"),
    [
        (["--train.max_itr=3"], TWO_NODES, "error: unknown key train.max_itr; did you mean train.max_iter?"),
        ([], ["--gpus-per-node=0"], "slurm/finetune.sh: the job has no GPUs; set NPROC_PER_NODE"),
    ],
)
def test_a_mistake_is_one_line_of_the_jobs_output_and_no_requeue(job, flags, sbatch, said):
    task = job.submit(*flags, sbatch=sbatch).end()
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("FAILED", "2:0", "0")
    (line,) = job.said().splitlines()
    assert line.startswith(said)
    assert not job.run_dir.exists()


def test_a_folder_without_the_project_is_named(slurm, tmp_path):
    options = [
        f"--chdir={tmp_path}",
        f"--output={tmp_path}/o.txt",
        "--cpus-per-task=2",
        "--mem=4G",
        "--gpus-per-node=1",
    ]
    job = slurm.sbatch(*options, ROOT / "slurm" / "finetune.sh")
    assert [task["ExitCode"] for task in slurm.wait(job)] == ["2:0"]
    assert f"no stylefinetune/ and .venv/bin/python in {tmp_path}; submit" in (tmp_path / "o.txt").read_text()


def test_a_job_script_that_is_run_by_hand_says_how_it_is_submitted():
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    script = ROOT / "slurm" / "finetune.sh"
    done = subprocess.run([script], env=bare, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert "submit it: sbatch" in done.stderr
