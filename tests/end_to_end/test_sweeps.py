"""The trials of a sweep, started with the command that `wandb agent` makes of configs/sweeps, without W&B's server."""

import os
import subprocess

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from stylefinetune.config.cli import parse_config
from tests.programs import ROOT

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def command_of(sweep, chosen):
    """Return the command line of a trial, as wandb.wandb_agent.Agent makes it."""
    values = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    values |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    command = []
    for word in create_sweep_command(sweep["command"]):
        is_macro = word.startswith("${") and word.endswith("}")
        command += values[word[2:-1]] if is_macro else [word]
    return command


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_trial_trains_in_its_own_run_dir_with_the_chosen_settings(path, tmp_path):
    sweep = yaml.safe_load(path.read_text())
    launcher = tmp_path / "torchrun"
    launcher.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    launcher.chmod(0o755)
    chosen = {"optim.base_lr": 0.0123, "optim.weight_decay": 0.0005}
    for run in ("first123", "second45"):
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": run, "DATA": "a folder/mine"}
        done = subprocess.run(
            command_of(sweep, chosen), env=os.environ | variables, cwd=ROOT, capture_output=True, text=True, check=True
        )
        words = done.stdout.splitlines()
        config = parse_config(words[words.index("stylefinetune.train") + 1 :])
        assert config.run_dir == f"runs/sweep/{run}"
        assert config.data.shards == "a folder/mine"
        assert (config.optim.base_lr, config.optim.weight_decay) == (0.0123, 0.0005)
    assert set(chosen) == set(sweep["parameters"])
