"""A program of several ranks: adds gradients of odd shapes in shared memory, three times, and writes them.

python shared_sums.py FOLDER: FOLDER/rank_N.safetensors gets the sums of rank N. Ranks wait for different times.
"""

import random
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from stylefinetune.distributed.shared_gradients import SharedGradients
from stylefinetune.distributed.world import World

SHAPES = ((3, 5), (2, 3, 5, 5), (1,), (4,), (6, 7))
WITHOUT_GRADIENT = 3
STEPS = 3


def gradients(rank, step):
    """Return the gradients of a rank in a step."""
    generator = torch.Generator().manual_seed(100 * rank + step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def main(folder):
    world = World.join()
    parameters = [torch.zeros(shape) for shape in SHAPES]
    parameters[1] = parameters[1].to(memory_format=torch.channels_last)
    shared = SharedGradients.open(parameters, world)
    assert shared is not None
    found = {}
    for step in range(STEPS):
        for number, (parameter, gradient) in enumerate(zip(parameters, gradients(world.rank, step), strict=True)):
            parameter.grad = None if number == WITHOUT_GRADIENT else torch.empty_like(parameter).copy_(gradient)
        time.sleep(random.uniform(0, 0.05))
        shared.add(private=step == 1)
        assert parameters[WITHOUT_GRADIENT].grad is None
        time.sleep(random.uniform(0, 0.05))
        for number, parameter in enumerate(parameters):
            if parameter.grad is not None:
                assert parameter.grad.stride() == parameter.stride()
                found[f"{step} {number}"] = parameter.grad.clone(memory_format=torch.contiguous_format)
                if step == 1:
                    parameter.grad.mul_(0)
    save_file(found, Path(folder, f"rank_{world.rank}.safetensors"))
    world.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
