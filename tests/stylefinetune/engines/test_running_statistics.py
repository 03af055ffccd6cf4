import torch

from stylefinetune.distributed.world import World
from stylefinetune.engines.running_statistics import share_statistics
from tests.programs import python

PROGRAM = """
import torch
from stylefinetune.distributed.world import World
from stylefinetune.engines.running_statistics import share_statistics
world = World.join()
statistics = [torch.full((3,), float(world.rank)), torch.full((2,), world.rank + 0.5)]
share_statistics(statistics, world)
share_statistics([], world)
assert [tensor.tolist() for tensor in statistics] == [[0.0, 0.0, 0.0], [0.5, 0.5]], statistics
world.shutdown()
"""


def test_all_ranks_get_those_of_rank_0(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = python(program, ranks=3)
    assert done.returncode == 0, done.stderr


def test_a_rank_alone_keeps_its_own():
    statistics = [torch.ones(2)]
    share_statistics(statistics, World(rank=0, size=1, device=torch.device("cpu")))
    assert statistics[0].tolist() == [1.0, 1.0]
