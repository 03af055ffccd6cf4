"""Checks whether a run can start, without starting it: `python -m stylefinetune.check [flags of training]`.

Launch scripts run it in a single process before torchrun: a mistake is then one line and exit code 2 instead of a
traceback from each rank. It prints the folder of the run, in which they read RUN/exit.json.
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
    """Check the command line `arguments` and the files that it names."""
    config = parse_config(arguments, read_solver)
    check_run_dir(Path(config.run_dir))
    if config.solver and not config.data.shards:
        find_solver_lists(config)  # the run packs the pictures
    else:
        setup = prepare_training(config, World(rank=0, size=1, device=torch.device("cpu")))
        if config.weights and not setup.resumed:
            load_weights(setup.net, config.weights, lambda _line: None)
    print(config.run_dir)


def check_run_dir(run_dir: Path) -> None:
    """Check that the folder of a run exists or can be created, without creating it.

    Raises:
        UserError: it does not exist and cannot be created.
    """
    existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"run_dir {run_dir} can't be created: {existing} is not a folder; use another --run_dir")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(
            f"run_dir {run_dir} can't be used: {existing} is not writable ({error.strerror}); use another --run_dir"
        ) from error


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
