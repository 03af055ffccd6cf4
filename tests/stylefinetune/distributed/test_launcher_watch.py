import os
import threading

import pytest

from stylefinetune.distributed.environment import Launch
from stylefinetune.distributed.launcher_watch import watch_launcher
from tests.programs import python

# The child waits for ever, as in a rendezvous; its stderr stays open until it exits.
PROGRAM = """
import os, time
from stylefinetune.distributed.environment import Launch
from stylefinetune.distributed.launcher_watch import watch_launcher

launcher, (watching, watched) = os.getpid(), os.pipe()
if os.fork() == 0:
    with watch_launcher(Launch(rank=3, size=4, launcher=launcher)):
        os.write(watched, b"1")
        time.sleep(1000)
os.read(watching, 1)
"""


def test_a_rank_whose_launcher_dies_while_it_joins_exits():
    done = python("-c", PROGRAM)
    assert done.stderr == f"error: the launcher of rank 3 on {os.uname().nodename} is gone\n"


@pytest.mark.parametrize("launcher", [None, os.getppid()], ids=["without a launcher", "with a launcher"])
def test_the_thread_ends_with_the_context(launcher):
    before = threading.active_count()
    with watch_launcher(Launch(launcher=launcher)):
        assert threading.active_count() == before + (launcher is not None)
    assert threading.active_count() == before
