"""Checks that the nodes of a run can find each other: launch/train.sh and slurm/finetune.sh run it on each node.

MASTER_ADDR must be a name or address that this node can resolve. On node 0, nothing may listen at MASTER_PORT yet.
"""

import errno
import os
import socket
import sys
import time

from stylefinetune.distributed.environment import await_address
from stylefinetune.errors import UserError

WAIT_SECONDS = 10.0  # for an earlier run on this port that is about to exit


def await_port(port: int) -> None:
    """Wait until a port of this node is free; 0 is any free port.

    Raises:
        UserError: it is in use for longer than WAIT_SECONDS, or may not be used.
    """
    end = time.monotonic() + WAIT_SECONDS
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    reason = f"MASTER_PORT is {port}, which can't be used ({error.strerror})"
                    raise UserError(f"{reason}; set another port") from error
            else:
                return
        time.sleep(0.5)


def main() -> int:
    """Check the environment variables and return the exit code."""
    try:
        await_address(os.environ["MASTER_ADDR"])
        if os.environ["NODE_RANK"] == "0":
            await_port(int(os.environ["MASTER_PORT"]))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
