"""slurm/finetune.sh on a real cluster: after any interruption, the last weights are bitwise those of a run without."""

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

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster

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


def pending_signals(process):
    """Return the pending signals of a process as a bit mask."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[1], 16)


class Job:
    """A job on two nodes with two ranks each, and the files of its run."""

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
        environment = [
            f"--export=ALL,OMP_NUM_THREADS=1{''.join(f',{name}={value}' for name, value in settings.items())}"
        ]
        command = [ROOT / "slurm" / "finetune.sh", *FLAGS, f"--data.shards={self.shards}", f"--run_dir={self.run_dir}"]
        self.id = self.slurm.sbatch(*options, *environment, *command, *flags)
        return self

    def wait_for(self, iteration):
        """Wait until the run has done `iteration` iterations, and return Slurm's description of the job."""
        end = time.monotonic() + 400
        file = self.run_dir / "metrics.jsonl"
        while not file.exists() or file.read_text().count('"phase": "train"') <= iteration:
            assert time.monotonic() < end, self.output()
            time.sleep(0.01)
        return self.slurm.show(self.id)[0]

    def workers(self):
        """Return the processes of its ranks on all nodes."""
        infos = [process.info for process in psutil.process_iter(["pid", "ppid", "cmdline"])]
        launched = {info["pid"]: info for info in infos if f"--run_dir={self.run_dir}" in (info["cmdline"] or [])}
        agents = {pid for pid, info in launched.items() if "torch.distributed.run" in info["cmdline"]}
        return [psutil.Process(pid) for pid, info in launched.items() if info["ppid"] in agents]

    def suspend_until_signalled(self):
        """Suspend all ranks, as slow storage would, until USR1 is pending for one of them."""
        ranks, end = self.workers(), time.monotonic() + 300
        for rank in ranks:
            rank.suspend()
        try:
            while not any(USR1 & pending_signals(rank) for rank in ranks):
                assert time.monotonic() < end, self.output()
                time.sleep(0.1)
        finally:
            for rank in ranks:
                rank.resume()

    def end(self):
        """Wait for the end, and return Slurm's description of the job."""
        (task,) = self.slurm.wait(self.id)
        return task

    def output(self):
        return (self.folder / "out.txt").read_text()

    def exit_record(self):
        return json.loads((self.run_dir / "exit.json").read_text())

    def result(self):
        """Return the bytes of the last checkpoint, and the contents of metrics.jsonl except speed."""
        folder = self.run_dir / "checkpoints" / f"iter_{ITERATIONS}"
        files = ("model.safetensors", "optimizer.safetensors", "progress.json")
        keys = ("iteration", "loss", "lr", "accuracy", "correct", "count")
        entries = [entry for phase in ("train", "test") for entry in metrics(self.run_dir, phase)]
        values = [[entry.get(key) for key in keys] for entry in entries]
        return [(folder / file).read_bytes() for file in files], values


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
def uninterrupted(slurm, pixel_shards, checkout, tmp_path_factory):
    """A job without an interruption."""
    job = Job(slurm, pixel_shards, checkout, tmp_path_factory.mktemp("uninterrupted")).submit()
    assert (job.end()["JobState"], job.exit_record()["reason"]) == ("COMPLETED", "finished"), job.output()
    return job


def test_two_nodes_of_two_ranks_train_to_the_end(uninterrupted):
    assert "requeue" not in uninterrupted.output()
    assert len(metrics(uninterrupted.run_dir, "train")) == ITERATIONS


@pytest.mark.slow
def test_deepspeed_gives_the_same_weights_as_ddp(job, uninterrupted):
    task = job.submit("--engine=deepspeed", "--train.max_iter=20").end()
    assert (task["JobState"], task["ExitCode"]) == ("COMPLETED", "0:0"), job.output()
    assert (job.run_dir / "deepspeed.log").stat().st_size > 0
    for file in ("model.safetensors", "optimizer.safetensors"):
        deepspeed, ddp = (load_file(run.run_dir / "checkpoints" / "iter_20" / file) for run in (job, uninterrupted))
        assert deepspeed.keys() == ddp.keys()
        assert max((deepspeed[name] - ddp[name]).abs().max() for name in ddp) < 1e-6, file


@pytest.mark.slow
def test_a_job_continues_after_its_time_limit_and_after_a_requeue_by_hand(job, uninterrupted):
    """Slurm has limits in minutes, checks them each half minute, and may send the signal a minute early."""
    job.submit(sbatch=[*TWO_NODES, "--time=1", "--signal=B:USR1@10"]).wait_for(5)
    early_requeues = job.output().count("requeueing job")  # on a machine that takes 20 s to start the run
    job.suspend_until_signalled()
    while job.output().count("requeueing job") == early_requeues:
        assert job.slurm.show(job.id)[0]["JobState"] == "RUNNING", job.output()
        time.sleep(0.1)
    job.slurm.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=10")
    first = job.exit_record()
    assert (first["code"], first["signal"], first["requeue"]) == (138, "SIGUSR1", True)
    assert first["checkpoint"] == f"{job.run_dir}/checkpoints/iter_{first['iteration']}"
    job.wait_for(first["iteration"] + 5)
    job.slurm.run("scontrol", "requeue", job.id)
    task = job.end()
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("COMPLETED", "0:0", f"{early_requeues + 2}"), (
        job.output()
    )
    assert job.output().count("Restoring previous solver status from") >= 2
    assert job.result() == uninterrupted.result()


@pytest.mark.slow
def test_torchrun_restarts_all_ranks_after_one_is_killed(job, uninterrupted):
    job.submit().wait_for(20)
    workers = job.workers()
    assert len(workers) == 4
    workers[-1].kill()
    task = job.end()
    assert (task["JobState"], task["Restarts"]) == ("COMPLETED", "0"), job.output()
    assert job.exit_record()["restarts"] > 0
    assert job.result() == uninterrupted.result()


@pytest.mark.slow
def test_a_nodes_power_cut_moves_the_job_to_a_spare_node(job, uninterrupted):
    task = job.submit().wait_for(20)
    _, node = job.slurm.run("scontrol", "show", "hostnames", task["NodeList"]).split()
    try:
        job.slurm.kill_node(node)
        task = job.end()
        assert (task["JobState"], task["Restarts"]) == ("COMPLETED", "1"), job.output()
        assert node not in job.slurm.run("scontrol", "show", "hostnames", task["NodeList"]).split()
    finally:
        job.slurm.start_node(node)
    assert job.result() == uninterrupted.result()


@pytest.mark.slow
def test_the_jobs_exit_code_is_the_runs(job):
    job.submit("--train.max_iter=100000", sbatch=["--gpus-per-node=0"], NPROC_PER_NODE="1").wait_for(20)
    job.slurm.run("scancel", "--signal=INT", f"{job.id}.0")  # the step that srun started
    task = job.end()
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("FAILED", "130:0", "0"), job.output()
    assert job.exit_record()["reason"] == "stopped"


@pytest.mark.parametrize(
    ("flags", "sbatch", "message"),
    [
        (["--train.max_itr=3"], TWO_NODES, "error: unknown key train.max_itr; did you mean train.max_iter?"),
        ([], ["--gpus-per-node=0"], "slurm/finetune.sh: the job has no GPUs; set NPROC_PER_NODE"),
    ],
)
def test_a_mistake_is_one_line_of_the_jobs_output_and_no_requeue(job, flags, sbatch, message):
    task = job.submit(*flags, sbatch=sbatch).end()
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("FAILED", "2:0", "0")
    (line,) = job.output().splitlines()
    assert line.startswith(message)
    assert not job.run_dir.exists()


def test_a_folder_that_is_not_the_checkout_is_reported(slurm, tmp_path):
    options = [
        f"--chdir={tmp_path}",
        f"--output={tmp_path}/o.txt",
        "--cpus-per-task=2",
        "--mem=4G",
        "--gpus-per-node=1",
    ]
    job = slurm.sbatch(*options, ROOT / "slurm" / "finetune.sh")
    assert [task["ExitCode"] for task in slurm.wait(job)] == ["2:0"]
    assert f"{tmp_path} is not the checkout; submit" in (tmp_path / "o.txt").read_text()


def test_a_job_script_that_is_run_by_hand_prints_how_to_submit_it():
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    script = ROOT / "slurm" / "finetune.sh"
    done = subprocess.run([script], env=bare, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "submit it: sbatch" in done.stderr
