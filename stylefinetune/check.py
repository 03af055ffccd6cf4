"""Sees whether a run could start, and starts nothing: `python -m stylefinetune.check [flags of training]`.

Launchers run it in one plain process before torchrun, so that a mistake is one line and exit code 2, not forty lines
from every rank. It prints the run's folder, for those who have to find RUN/exit.json.
"""

import sys
import tempfile
from pathlib import Path

import torch

from stylefinetune.caffe.solver import find_solver_lists, read_solver
from stylefinetune.config.cli import parse_config
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command
from stylefinetune.models.weights import load_weights
from stylefinetune.training.setup import prepare_training


def main(arguments: list[str]) -> None:
    """Checks the command line `arguments`, and what it names."""
    config = parse_config(arguments, read_solver)
    see_run_dir(Path(config.run_dir))
    if config.solver and not config.data.shards:
        find_solver_lists(config)  # their pictures are packed when the run starts
    else:
        start = prepare_training(config, World(rank=0, size=1, device=torch.device("cpu")))
        if config.weights and not start.resumed:
            load_weights(start.net, config.weights, lambda _line: None)
    print(config.run_dir)


def see_run_dir(run_dir: Path) -> None:
    """Sees that a run's folder is there, or can be made, without making it.

    Raises:
        UserError: it isn't, and can't.
    """
    there = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"run_dir {run_dir} can't be made: {there} is no folder; choose another --run_dir")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(
            f"run_dir {run_dir} can't be used: {there} can't be written to ({error.strerror}); choose another --run_dir"
        ) from error


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
