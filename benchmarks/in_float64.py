"""Trains in float64: `python -m benchmarks.in_float64` takes what `python -m stylefinetune.train` takes.

The order of a float32 sum shows in its last digit, and with it where a maximum is a tie; in float64 it shows nowhere,
on any number of ranks or threads and on any processor. What is then left of a difference from Caffe is Caffe's own
rounding. `--turn_tie ITERATION`, on one rank, lets the tie in that iteration's pool1 fall the other way.
"""

import argparse
import sys

import torch
from torch import nn
from torch.nn import functional

from stylefinetune import train
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.errors import run_command
from stylefinetune.training import setup


class Float64Transform(Transform):
    """A Transform whose result, computed in float32 as ever, is float64."""

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """See Transform."""
        return super().__call__(pictures, crops).double()


class TieTurner:
    """A forward hook of conv1: in one training iteration, its closest second in a window of pool1 becomes the first.

    Args:
        iteration: which, of a run that begins at 0 with an iter_size of 1.
    """

    def __init__(self, iteration: int) -> None:
        self._left = iteration

    def __call__(self, _conv1: nn.Module, _inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Returns conv1's output, [B, C, H, W], but for the one value that is lowered by twice its lead."""
        if not torch.is_grad_enabled():  # a test's pass
            return output
        self._left -= 1
        if self._left != -1:
            return output
        with torch.no_grad():
            planes = functional.relu(output).flatten(0, 1)
            # Each window's nine values; one that is cut at the edge isn't looked at.
            first, second = functional.unfold(planes[:, None], kernel_size=3, stride=2).topk(2, dim=1).values.unbind(1)
            lead = torch.where(second > 0, first - second, torch.inf)
            plane, window = divmod(int(lead.argmin()), lead.shape[1])
            winner, drop = first[plane, window], 2 * lead[plane, window]
        return output - drop * (output == winner)


def main(arguments: list[str]) -> None:
    """Runs the command line `arguments`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--turn_tie", type=int)
    options, arguments = parser.parse_known_args(arguments)
    torch.set_default_dtype(torch.float64)
    setup.Transform = Float64Transform
    if options.turn_tie is not None:
        build, turner = setup.build_model, TieTurner(options.turn_tie)

        def build_turned(*settings: object) -> nn.Module:
            net = build(*settings)
            net.get_submodule("conv1").register_forward_hook(turner)
            return net

        setup.build_model = build_turned
    train.main(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
