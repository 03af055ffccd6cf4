"""Trains in float64: `python -m benchmarks.in_float64` has the flags of `python -m stylefinetune.train`.

In float32, the order of a sum changes its last digit, and that can decide which of two almost equal values is the
maximum of a pooling window (a tie). In float64 the order has no visible effect, on any number of ranks or threads and
on any processor; the remaining difference from Caffe is Caffe's own rounding. `--turn_tie ITERATION`, on one rank,
reverses the decision of the tie in pool1 in that iteration.
"""

import argparse
import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stylefinetune import train
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.errors import run_command
from stylefinetune.training import run, setup


class Float64Transform(Transform):
    """A Transform that computes in float32 as usual and returns float64."""

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """See Transform."""
        return super().__call__(pictures, crops).double()


class TieTurner:
    """A forward hook of conv1 that reverses the closest decision between two values in a window of pool1.

    Args:
        iteration: training iteration in which to do so; the run must begin at 0 and have an iter_size of 1.
    """

    def __init__(self, iteration: int) -> None:
        self._left = iteration

    def __call__(self, _conv1: nn.Module, _inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Return conv1's output, [B, C, H, W]; the winning value is lowered by twice its lead over the second."""
        if not torch.is_grad_enabled():  # a forward pass of a test
            return output
        self._left -= 1
        if self._left != -1:
            return output
        with torch.no_grad():
            planes = functional.relu(output).flatten(0, 1)
            # The nine values of each window; windows cut off by the edge are not considered.
            first, second = functional.unfold(planes[:, None], kernel_size=3, stride=2).topk(2, dim=1).values.unbind(1)
            lead = torch.where(second > 0, first - second, torch.inf)
            plane, window = divmod(int(lead.argmin()), lead.shape[1])
            winner, drop = first[plane, window], 2 * lead[plane, window]
        return output - drop * (output == winner)


def main(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--turn_tie", type=int)
    options, arguments = parser.parse_known_args(arguments)
    torch.set_default_dtype(torch.float64)
    run.Transform = Float64Transform
    if options.turn_tie is not None:
        build, turner = setup.build_model, TieTurner(options.turn_tie)

        def build_turned(*settings: Any) -> nn.Module:  # noqa: ANN401 -- the arguments of build_model
            net = build(*settings)
            net.get_submodule("conv1").register_forward_hook(turner)
            return net

        setup.build_model = build_turned
    train.main(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
