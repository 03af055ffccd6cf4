"""launch/kubernetes: the manifests are consistent, and their commands are accepted by the programs that they start."""

import os
import re
import shlex
import subprocess
import time

import pytest
import yaml

from shards.__main__ import main as shards
from shards.commands import build_parser
from shards.config.cli import parse_assemble_config
from stylefinetune.config.cli import parse_config
from tests.programs import NARROW, ROOT, free_port, metrics

FOLDER = ROOT / "launch" / "kubernetes"
OBJECTS = [item for file in sorted(FOLDER.glob("*.yaml")) for item in yaml.safe_load_all(file.read_text())]
JOBS = {f"{item['kind']} {item['metadata']['name']}": item for item in OBJECTS if item["kind"] != "Service"}


def pods(job):
    """Return the pod templates of a Job or a PyTorchJob."""
    replicas = job["spec"].get("pytorchReplicaSpecs", {"": job["spec"]})
    return [part["template"]["spec"] for part in replicas.values()]


def script_of(pod):
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    return script


def commands(script):
    """Return the words of each command of the projects that a script runs."""
    lines = script.replace("\\\n", " ").replace("$JOB_COMPLETION_INDEX", "3")
    found = re.findall(r"(?:^|exec |&& )((?:shards|launch/train.sh) [^&\n]*)", lines, re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("name", JOBS)
def test_a_manifest_starts_a_command_that_exists(name):
    job = JOBS[name]
    assert name in {"Job assemble", "Job merge", "Job finetune", "PyTorchJob finetune"}
    for pod in pods(job):
        found = commands(script_of(pod))
        assert found
        for program, *flags in found:
            if program == "launch/train.sh":
                config = parse_config(flags)  # also reads the recipe
                assert config.run_dir.startswith("/data/")
            elif flags[0] == "assemble":
                assert parse_assemble_config(flags[1:]).partition == f"3/{job['spec']['completions']}"
            else:
                assert build_parser(flags[0]).parse_args(flags[1:]).dir.is_relative_to("/data")


@pytest.mark.parametrize("name", JOBS)
def test_volumes_are_mounted_and_exist(name):
    for pod in pods(JOBS[name]):
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        assert mounts["data"] == "/data"
        assert (mounts.get("shm") == "/dev/shm") == ("train.sh" in script_of(pod))


def test_the_nodes_of_a_run_find_each_other():
    service = next(item for item in OBJECTS if item["kind"] == "Service")
    job = JOBS["Job finetune"]
    (pod,) = pods(job)
    variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    job_name, service_name = job["metadata"]["name"], service["metadata"]["name"]
    assert variables["MASTER_ADDR"] == f"{job_name}-0.{service_name}"
    assert pod["subdomain"] == service_name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job_name}
    assert variables["NNODES"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    assert pod["terminationGracePeriodSeconds"] > 30  # which a run may need to save its checkpoint
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert all(rule["onExitCodes"]["containerName"] == "train" for rule in rules if "onExitCodes" in rule)

    operator = JOBS["PyTorchJob finetune"]
    nodes = sum(part["replicas"] for part in operator["spec"]["pytorchReplicaSpecs"].values())
    assert all({"name": "NNODES", "value": str(nodes)} in pod["containers"][0]["env"] for pod in pods(operator))


@pytest.mark.slow  # two torchruns
def test_the_scripts_of_two_pods_train_together(pixel_shards, tmp_path):
    """One pod of the Job and one of the PyTorchJob, which run the same program."""
    variables = [{"JOB_COMPLETION_INDEX": "0"}, {"RANK": "1", "WORLD_SIZE": "2"}]
    scripts = [script_of(pods(JOBS[name])[0]) for name in ("Job finetune", "PyTorchJob finetune")]
    shared = {"NNODES": "2", "NPROC_PER_NODE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    flags = [*NARROW, "--train.max_iter=4", "--train.display=1"]
    flags += [f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}"]

    def start(node):
        script = re.sub(r"exec launch/train.sh .*", 'exec launch/train.sh "$@"', scripts[node], flags=re.DOTALL)
        env = {**os.environ, "OMP_NUM_THREADS": "1", **shared, **variables[node]}
        output = (tmp_path / f"{node}.txt").open("w")
        command = ["bash", "-c", script, "pod", *flags]
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)

    second = start(1)
    time.sleep(2)
    assert second.poll() is None  # it waits for node 0
    codes = [process.wait(timeout=300) for process in (start(0), second)]
    assert codes == [0, 0], [(tmp_path / f"{node}.txt").read_text() for node in range(2)]
    assert len(metrics(tmp_path / "run", "train")) == 4


def test_the_commands_of_the_data_side_are_those_of_the_program(capsys):
    assert shards(["--help"]) == 0
    listed = capsys.readouterr().out
    names = {
        words[1]
        for job in JOBS.values()
        for pod in pods(job)
        for words in commands(script_of(pod))
        if words[0] == "shards"
    }
    assert names == {"assemble", "merge", "mean"}
    assert all(f"\n  {name} " in listed for name in names)
