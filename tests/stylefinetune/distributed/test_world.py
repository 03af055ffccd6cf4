import re
import sys

import torch

from stylefinetune.distributed.world import World
from tests.programs import python, run

PROGRAM = """
import torch
from stylefinetune.errors import UserError
from stylefinetune.distributed.world import World

def fail():
    raise UserError("disk full")

world = World.join()
total = world.sum(torch.tensor([1.0, world.rank]))
world.main_first(lambda: print("rank 0 only", flush=True))
try:
    world.main_first(fail)
except UserError as error:
    print(f"every rank raises: {error}", flush=True)
print(f"rank {world.rank} of {world.size} on {world.device.type}, main {world.is_main}: {total.tolist()}", flush=True)
world.shutdown()
"""


def test_sums_in_a_world_of_one_are_the_values(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = World.join()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.sum(torch.tensor([2.0])).tolist() == [2.0]
    world.shutdown()


def test_three_ranks_sum_wait_for_rank_0_and_shut_down():
    done = python("-c", PROGRAM, ranks=3)
    assert done.returncode == 0, done.stderr
    # Three processes share the pipe, so a line and its newline may be separated.
    printed = sorted(re.findall(r"rank \d of 3 on \w+, main \w+: \[.*?\]", done.stdout))
    assert done.stdout.count("rank 0 only") == 1
    assert done.stdout.count("every rank raises: disk full") == 1
    assert done.stdout.count("every rank raises: rank 0 has failed") == 2
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert printed == [f"rank {rank} of 3 on {device}, main {rank == 0}: [3.0, 3.0]" for rank in range(3)]


def test_ranks_know_how_often_torchrun_has_restarted_them(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\nfrom stylefinetune.distributed.world import World\nworld = World.join()\n"
        "print(f'restarts {world.restarts}', flush=True)\nworld.shutdown()\nsys.exit(world.restarts < 2)"
    )
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--max_restarts=1"]
    done = run(sys.executable, *launcher, "--rdzv_endpoint=127.0.0.1:0", program, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert re.findall(r"restarts \d", done.stdout) == ["restarts 0"] * 2 + ["restarts 2"] * 2
