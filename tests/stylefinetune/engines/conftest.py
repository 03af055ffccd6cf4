"""Fixtures of the DeepSpeed tests. Starting DeepSpeed takes long, so it starts once per number of ranks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stylefinetune.distributed.world import World
from tests.programs import ROOT, python
from tests.stylefinetune.engines.every_stage import pack, train, train_measured, with_torch

PROGRAM = ROOT / "tests" / "stylefinetune" / "engines" / "every_stage.py"
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Alone:
    """A run with PyTorch: the state after two iterations, the losses of the next three, and the state after them.

    And the norms of the first iteration, measured without clipping.
    """

    start: Tensors
    losses: list[float]
    end: Tensors
    norms: dict[str, float]


@dataclasses.dataclass(frozen=True)
class DeepSpeedRun:
    """A run on several ranks that continued from Alone.start with DeepSpeed.

    Attributes:
        folder: folder of its files, see every_stage.py.
        results: content of results.json.
        output: output on the console.
    """

    folder: Path
    results: dict[str, Any]
    output: str


@pytest.fixture(scope="session")
def alone():
    engine = with_torch(ALONE)
    norms = train_measured(engine, ALONE, range(2))
    start = pack(engine.state())
    return Alone(start, train(engine, ALONE, range(2, 5)), pack(engine.state()), norms[0])


@pytest.fixture(scope="session", params=[1, 3], ids=["1 rank", "3 ranks"])
def deepspeed_run(alone, tmp_path_factory, request):
    """The run on 1 and on 3 ranks; tests/end_to_end/test_deepspeed.py tests 2."""
    folder = tmp_path_factory.mktemp("deepspeed")
    save_file(alone.start, folder / "start.safetensors")
    done = python(PROGRAM, folder, ranks=request.param)
    assert done.returncode == 0, done.stderr
    return DeepSpeedRun(folder, json.loads((folder / "results.json").read_text()), done.stdout + done.stderr)
