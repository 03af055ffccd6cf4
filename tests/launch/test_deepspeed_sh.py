"""launch/deepspeed.sh: DeepSpeed's own launcher, nodes by ssh, its signals and its exit code."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.programs import NARROW, ROOT, free_port, metrics, run

SCRIPT = ROOT / "launch" / "deepspeed.sh"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
SSHD_SETTINGS = "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\n"


@pytest.fixture
def two_hosts(tmp_path):
    """Two hosts n1 and n2 that `ssh` reaches, each a separate sshd on loopback: (settings, processes)."""
    if not SSHD:
        pytest.skip("sshd is missing (Debian's openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which the system service would create
    folder = tmp_path / "ssh"
    (folder / "bin").mkdir(parents=True)
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    config = f"IdentityFile {key}\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
    config += "LogLevel ERROR\n"
    daemons = []
    for number in (1, 2):
        address = f"127.0.0.{number}"
        port = free_port(address)
        settings = f"Port {port}\nListenAddress {address}\nHostKey {key}\nAuthorizedKeysFile {key}.pub\n"
        (folder / f"sshd{number}").write_text(settings + SSHD_SETTINGS)
        config += f"Host n{number}\n  HostName {address}\n  Port {port}\n"
        daemons.append(subprocess.Popen([SSHD, "-D", "-f", folder / f"sshd{number}"], stderr=subprocess.DEVNULL))
    (folder / "config").write_text(config)
    wrapper = folder / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "config"} "$@"\n')
    wrapper.chmod(0o755)
    hosts = folder / "host file"
    hosts.write_text("# HOST slots\nn1 slots=2\nn2 slots=1\n")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    yield {"HOSTFILE": str(hosts), "MASTER_ADDR": "127.0.0.1", "NPROC_PER_NODE": "1", "PATH": path}, daemons
    for daemon in daemons:
        daemon.terminate()
        daemon.wait()


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_stopped_run_saves_leaves_no_process_behind_and_continues_on_one_node(pixel_shards, tmp_path, request, nodes):
    settings, daemons = request.getfixturevalue("two_hosts") if nodes > 1 else ({}, [])
    schedule = ["--train.max_iter=60", "--train.display=1", "--train.test_interval=0", "--deepspeed.zero_stage=2"]
    run_dir = tmp_path / "run"
    command = [SCRIPT, *NARROW, *schedule, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NPROC_PER_NODE": "2"}
    script = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment | settings
    )
    try:
        end = time.monotonic() + 400
        while not ((run_dir / "metrics.jsonl").exists() and metrics(run_dir, "train")[10:]):
            assert script.poll() is None, script.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        started = psutil.Process(script.pid).children(recursive=True)
        assert len(started) >= 4  # a shell, two launchers and two ranks; or the processes that reach two nodes
        for daemon in daemons:
            node = psutil.Process(daemon.pid).children(recursive=True)
            (rank,) = [process for process in node if "stylefinetune.train" in process.cmdline()[3:4]]
            assert rank.environ()["OMP_NUM_THREADS"] == "1"  # ssh itself doesn't forward it
            started += node
        script.send_signal(signal.SIGUSR1)
        output = script.communicate(timeout=300)[0]
    finally:
        script.kill()
    assert script.returncode == 143, output
    assert psutil.wait_procs(started, timeout=120)[1] == []  # each sshd ends a moment after its client
    assert json.loads((run_dir / "exit.json").read_text())["reason"] == "stopped"
    assert "DeepSpeed" not in output
    assert "real_accelerator" not in output
    if nodes > 1:
        resumed = run(*command, env=environment)
        assert resumed.returncode == 0, resumed.stderr
        assert "Restoring previous solver status" in resumed.stderr
        assert [entry["iteration"] for entry in metrics(run_dir, "train")] == list(range(60))


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        (["--optim.clip_gradients=0"], {}, "error: optim.clip_gradients is 0, which disables clipping in DeepSpeed"),
        (
            [],
            {"NPROC_PER_NODE": "all"},
            "launch/deepspeed.sh: NPROC_PER_NODE is all; it must be a number from 1 to 9999",
        ),
        ([], {"HOSTFILE": "no where"}, "launch/deepspeed.sh: HOSTFILE is no where, which can't be read"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(pixel_shards, tmp_path, flags, settings, message):
    done = run(SCRIPT, *NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}", *flags, env=settings)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("n1 slots=2\nn2\n", 'line 2: "n2" isn\'t of the form HOST slots=NUMBER'),
        ("n1 slots=0\n", 'line 1: "n1 slots=0" isn\'t of the form'),
        ("n1 slots=2\n\nn1 slots=2\n", "line 3: n1 is listed twice"),
        ("n1 slots=2\nn2 slots=1\n", "line 2, has n2 slots=1"),
        ("# n1 slots=2\n", "lists no host"),
    ],
)
def test_a_mistake_in_the_hostfile_is_one_line_that_names_the_files_line(tmp_path, lines, message):
    (tmp_path / "hosts").write_text(lines)
    done = run(SCRIPT, *NARROW, env={"HOSTFILE": str(tmp_path / "hosts"), "NPROC_PER_NODE": "2"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("launch/deepspeed.sh: ")
    assert str(tmp_path / "hosts") in line
    assert message in line
