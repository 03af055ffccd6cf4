"""A mistake of the user's: one line that says what, where and what to do, and exit code 2."""

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something that the user must mend; every rank of the run sees it alike."""


class RankError(UserError):
    """A UserError that one rank may meet alone, such as a shard that its node can't read."""


def run_command(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Runs `command(arguments)` and returns the process's exit code.

    A UserError becomes one line on stderr: from rank 0 alone, since all ranks meet it alike; a RankError, or a file
    that the system refuses, from the rank that met it.
    """
    rank = int(os.environ.get("RANK", "0"))
    try:
        command(arguments)
    except RankError as error:
        sys.stderr.write(f"error: rank {rank}: {error}\n")
        return EXIT_USER_ERROR
    except UserError as error:
        if rank == 0:
            sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except OSError as error:
        if error.filename is None:  # not about a file of the user's
            raise
        sys.stderr.write(f"error: rank {rank}: {error.filename}: {error.strerror}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if rank == 0:
            sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    return 0
