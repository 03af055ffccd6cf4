"""A program of one rank or several: trains several times, one after the other, since starting DeepSpeed is slow.

python many_runs.py FILE: FILE is a JSON list with a list of flags for each run.
"""

import json
import sys
from pathlib import Path

from stylefinetune.caffe.solver import read_solver
from stylefinetune.config.cli import parse_config
from stylefinetune.distributed.world import World
from stylefinetune.errors import run_command
from stylefinetune.train import run_training
from stylefinetune.training.exit_handler import ExitHandler
from stylefinetune.training.preemption import Preemption


def main(arguments):
    world = World.join()
    for flags in json.loads(Path(arguments[0]).read_text()):
        config = parse_config(flags, read_solver)
        exit_handler = ExitHandler(Path(config.run_dir), world)
        with Preemption(world, exit_handler.exit_now) as preemption, exit_handler:
            run_training(config, world, preemption, exit_handler)
    world.shutdown()


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
