"""Sees whether a run could start, and starts nothing: `python -m stylefinetune.check [flags of training]`.

Launchers run it in one plain process before torchrun, so that a mistake is one line and exit code 2, not forty lines
from every rank. It prints the run's folder, for those who have to find RUN/exit.json.
"""

import sys

import torch

from stylefinetune.config_io import parse
from stylefinetune.errors import run_command
from stylefinetune.solver import find_lists, read_solver
from stylefinetune.train import prepare
from stylefinetune.weights import load_weights
from stylefinetune.world import World


def main(arguments: list[str]) -> None:
    """Checks the command line `arguments`, and what it names."""
    config = parse(arguments, read_solver)
    if config.solver and not config.data.shards:
        find_lists(config)  # their pictures are packed when the run starts
    else:
        start = prepare(config, World(rank=0, size=1, device=torch.device("cpu")))
        if config.weights and not start.resumed:
            load_weights(start.net, config.weights, lambda _line: None)
    print(config.run_dir)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
