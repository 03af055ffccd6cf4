import pytest

from tests.programs import python

SUMS = """
import torch
from stylefinetune.distributed.flat_gradients import FlatGradients
from stylefinetune.distributed.world import World

world = World.join()
shapes = [(3, 4), (5,), (2, 3, 4, 5)]
parameters = [torch.zeros(shape, requires_grad=True) for shape in shapes]
parameters[2] = torch.zeros(shapes[2]).to(memory_format=torch.channels_last).requires_grad_()
sums = FlatGradients(parameters)
for step in range(3):
    drawn = [[torch.randn(shape, generator=torch.Generator().manual_seed(10 * step + rank)) for shape in shapes]
             for rank in range(world.size)]
    for parameter, gradient in zip(parameters, drawn[world.rank]):
        parameter.grad = None
        (parameter * gradient).sum().backward()
    sums.add(private=True)
    for parameter, *gradients in zip(parameters, *drawn):
        assert parameter.grad.stride() == parameter.stride()
        assert torch.allclose(parameter.grad, sum(gradients), atol=1e-6)
world.shutdown()
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_gradients_are_summed_over_the_ranks_whatever_their_layout(ranks):
    done = python("-c", SUMS, ranks=ranks)
    assert done.returncode == 0, done.stderr
