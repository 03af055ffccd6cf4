"""What the tests of DeepSpeed's side share: starting it takes long, so that each number of ranks starts it once."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stylefinetune.distributed.world import World
from tests.programs import ROOT, run
from tests.stylefinetune.engines.every_stage import pack, train, with_torch

PROGRAM = ROOT / "tests" / "stylefinetune" / "engines" / "every_stage.py"
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Alone:
    """PyTorch alone: the state after two iterations, the losses of the next three, and the state after them."""

    start: Tensors
    losses: list[float]
    end: Tensors


@dataclasses.dataclass(frozen=True)
class WentOn:
    """So many ranks that went on with DeepSpeed from Alone.start.

    Attributes:
        folder: what they left, see every_stage.py.
        told: the same, by stage.
        said: on the console.
    """

    folder: Path
    told: dict[str, Any]
    said: str


@pytest.fixture(scope="session")
def alone():
    engine = with_torch(ALONE)
    train(engine, ALONE, range(2))
    start = pack(engine.state())
    return Alone(start, train(engine, ALONE, range(2, 5)), pack(engine.state()))


@pytest.fixture(scope="session", params=[1, 3], ids=["1 rank", "3 ranks"])
def went_on(alone, tmp_path_factory, request):
    """On 2 ranks, tests/end_to_end/test_deepspeed.py shows it."""
    folder = tmp_path_factory.mktemp("went on")
    save_file(alone.start, folder / "start.safetensors")
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={request.param}", "--rdzv_backend=c10d"]
    launch = [*launch, "--rdzv_endpoint=127.0.0.1:0"] if request.param > 1 else []
    done = run(sys.executable, *launch, PROGRAM, folder, env={"OMP_NUM_THREADS": "1"}, timeout=240)
    assert done.returncode == 0, done.stderr
    return WentOn(folder, json.loads((folder / "told.json").read_text()), done.stdout + done.stderr)
