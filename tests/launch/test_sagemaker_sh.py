"""launch/sagemaker.sh: the hosts of a SageMaker job become the nodes of launch/train.sh."""

import shutil
import sys

import pytest

from tests.programs import ROOT, run


@pytest.fixture
def checkout(tmp_path):
    """A checkout in which launch/train.sh prints how it was started."""
    launch = tmp_path / "checkout" / "launch"
    launch.mkdir(parents=True)
    for name in ("sagemaker.sh", "functions.sh"):
        shutil.copy(ROOT / "launch" / name, launch)
    names = "$NNODES $NODE_RANK $MASTER_ADDR $MASTER_PORT ${NPROC_PER_NODE:-none}"
    (launch / "train.sh").write_text(f'#!/usr/bin/env bash\necho "{names} $*"\n')
    (launch / "train.sh").chmod(0o755)
    return launch.parent


@pytest.mark.parametrize(
    ("hosts", "host", "gpus", "expected"),
    [
        ('["algo-1","algo-2"]', "algo-1", "8", "2 0 algo-1 29500 8"),
        ('["algo-1", "algo-2", "algo-3"]', "algo-3", "1", "3 2 algo-1 29500 1"),
        ('["algo-1"]', "algo-1", "0", "1 0 algo-1 29500 none"),
    ],
)
def test_the_hosts_are_the_nodes(checkout, hosts, host, gpus, expected):
    env = {"SM_HOSTS": hosts, "SM_CURRENT_HOST": host, "SM_NUM_GPUS": gpus, "PYTHON": sys.executable}
    done = run(checkout / "launch" / "sagemaker.sh", "--config", "a b.yaml", env=env, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected} --config a b.yaml\n", "")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "SM_HOSTS and SM_CURRENT_HOST are not set; without SageMaker: launch/train.sh"),
        (
            {"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-2"},
            'SM_CURRENT_HOST is algo-2, which is not in SM_HOSTS, ["algo-1"]',
        ),
    ],
)
def test_a_mistake_is_one_line(checkout, env, message):
    done = run(checkout / "launch" / "sagemaker.sh", env=env)
    assert (done.returncode, done.stderr) == (2, f"launch/sagemaker.sh: {message}\n")


def test_help():
    assert run(ROOT / "launch" / "sagemaker.sh", "--help").stdout.startswith(
        "Trains on the hosts of an Amazon SageMaker"
    )
