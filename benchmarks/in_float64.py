"""Trains in float64: `python -m benchmarks.in_float64` takes what `python -m stylefinetune.train` takes.

The order of a float32 sum shows in its last digit, and with it where a maximum is a tie; in float64 it shows nowhere,
on any number of ranks or threads and on any processor. What is then left of a difference from Caffe is Caffe's own
rounding.
"""

import sys

import torch

from stylefinetune import train
from stylefinetune.errors import run_command
from stylefinetune.transforms import Crops, Transform


class Float64Transform(Transform):
    """A Transform whose result, computed in float32 as ever, is float64."""

    def __call__(self, pictures: torch.Tensor, crops: Crops) -> torch.Tensor:
        """See Transform."""
        return super().__call__(pictures, crops).double()


def main(arguments: list[str]) -> None:
    """Runs the command line `arguments`."""
    torch.set_default_dtype(torch.float64)
    train.Transform = Float64Transform
    train.main(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
