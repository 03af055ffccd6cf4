"""launch/deepspeed.sh: DeepSpeed's own launcher, its signals, and the exit code that is the run's own."""

import json
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.programs import NARROW, ROOT, metrics, run

SCRIPT = ROOT / "launch" / "deepspeed.sh"


@pytest.mark.slow
def test_a_run_that_is_stopped_saves_leaves_nobody_behind_and_goes_on(pixel_shards, tmp_path):
    schedule = ["--train.max_iter=60", "--train.display=1", "--train.test_interval=0", "--deepspeed.zero_stage=2"]
    run_dir = tmp_path / "run"
    command = [SCRIPT, *NARROW, *schedule, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NPROC_PER_NODE": "2"}
    script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        end = time.monotonic() + 120
        while not ((run_dir / "metrics.jsonl").exists() and metrics(run_dir, "train")[10:]):
            assert script.poll() is None, script.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        started = psutil.Process(script.pid).children(recursive=True)
        assert len(started) >= 4  # a shell, two launchers, two ranks
        script.send_signal(signal.SIGUSR1)
        said = script.communicate(timeout=60)[0]
    finally:
        script.kill()
    assert script.returncode == 143, said
    assert not [process for process in started if process.is_running()]
    assert json.loads((run_dir / "exit.json").read_text())["reason"] == "stopped"
    assert "DeepSpeed" not in said
    assert "real_accelerator" not in said
    gone_on = run(*command, env=environment)
    assert gone_on.returncode == 0, gone_on.stderr
    assert "Restoring previous solver status" in gone_on.stderr
    assert [told["iteration"] for told in metrics(run_dir, "train")] == list(range(60))


@pytest.mark.parametrize(
    ("flags", "settings", "said"),
    [
        (["--train.max_itr=3"], {}, "error: unknown key train.max_itr; did you mean train.max_iter?"),
        (["--optim.clip_gradients=0"], {}, "error: optim.clip_gradients is 0, which for DeepSpeed means not to clip"),
        ([], {"NPROC_PER_NODE": "all"}, "launch/deepspeed.sh: NPROC_PER_NODE is all; it must be a number of processes"),
        ([], {"HOSTFILE": "no where"}, "launch/deepspeed.sh: HOSTFILE is no where, which can't be read"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(pixel_shards, tmp_path, flags, settings, said):
    done = run(SCRIPT, *NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}", *flags, env=settings)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(said)
    assert not (tmp_path / "run").exists()


def test_help_is_how_it_is_called():
    done = run(SCRIPT, "--help")
    assert "launch/deepspeed.sh --config FILE" in done.stdout
