import dataclasses
import os

import pytest
import torch
from safetensors.torch import load_file

from stylefinetune.distributed.world import World
from tests.programs import ROOT, python
from tests.stylefinetune.distributed.shared_sums import SHAPES, STEPS, WITHOUT_GRADIENT, gradients
from tests.stylefinetune.engines.every_stage import OPTIM, pack, train, with_torch

PROGRAM = ROOT / "tests" / "stylefinetune" / "distributed" / "shared_sums.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has files in memory")


def sums(ranks, folder):
    folder.mkdir()
    done = python(PROGRAM, folder, ranks=ranks)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"rank_{rank}.safetensors") for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_all_ranks_have_the_same_bits_of_the_sums_whatever_the_timing(ranks, tmp_path):
    found = [*sums(ranks, tmp_path / "once"), *sums(ranks, tmp_path / "again")]
    assert len(found[0]) == STEPS * (len(SHAPES) - 1)
    for name, total in found[0].items():
        step, number = map(int, name.split())
        assert number != WITHOUT_GRADIENT
        assert all(torch.equal(other[name], total) for other in found)
        expected = sum(gradients(rank, step)[number].double() for rank in range(ranks))
        assert torch.allclose(total.double(), expected, atol=1e-6)


ENGINES = """
import os, sys
from pathlib import Path
import torch
from stylefinetune.distributed.world import World
from tests.stylefinetune.distributed.test_shared_gradients import VARIANTS, train_variant

folder, way = sys.argv[1:]
if way == "DistributedDataParallel":
    del os.memfd_create
world = World.join()
for variant in VARIANTS:
    engine, losses, state = train_variant(world, variant)
    assert (engine._gradient_sum is not None) == (way == "shared memory")
    if world.is_main:
        torch.save([losses, state], Path(folder, f"{variant}.pt"))
world.shutdown()
"""

VARIANTS = {
    "plain": (-1.0, "fp32", 1e-6),
    "clipped": (0.5, "fp32", 1e-6),
    "fp16": (-1.0, "fp16", 2e-2),  # whose gradients are unscaled in place
}


def train_variant(world, variant):
    """Train for three iterations of two micro-batches, and return the engine, the losses, and the state."""
    clip, precision, _ = VARIANTS[variant]
    optim = dataclasses.replace(OPTIM, clip_gradients=clip)
    engine = with_torch(world, optim=optim, precision=precision)
    return engine, train(engine, world, range(3)), pack(engine.state())


@pytest.mark.parametrize("way", ["shared memory", "DistributedDataParallel"])
def test_two_ranks_train_as_one_whatever_changes_the_gradients_afterwards(way, tmp_path):
    done = python("-c", ENGINES, tmp_path, way, ranks=2)
    assert done.returncode == 0, done.stderr
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    for variant, (*_, tolerance) in VARIANTS.items():
        losses, state = torch.load(tmp_path / f"{variant}.pt", weights_only=True)
        _, expected_losses, expected = train_variant(alone, variant)
        assert losses == pytest.approx(expected_losses, abs=max(tolerance, 1e-5))
        for name, tensor in expected.items():
            assert torch.allclose(state[name], tensor, rtol=0, atol=tolerance * tensor.abs().max().item()), name
