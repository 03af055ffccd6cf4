import os

import pytest

from stylefinetune.distributed import shared_memory
from tests.programs import python

linux_only = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has files in memory")

PROGRAM = """
import os, resource
from pathlib import Path
import torch
from stylefinetune.distributed import shared_memory
from stylefinetune.distributed.world import World

def fail(*_):
    raise OSError(12, "Cannot allocate memory")

MIB = 2**20
world = World.join()
BEFORE
memory = shared_memory.share_memory(world, 3 * MIB)
if memory is None:
    found = "no memory"
else:
    assert "/memfd:stylefinetune-" in Path("/proc/self/maps").read_text()  # and in no file system
    assert bytes(memory) == bytes(3 * MIB)
    world.sum(torch.ones(1))  # all have read
    memory[world.rank * MIB] = 65 + world.rank
    world.sum(torch.ones(1))  # all have written
    found = "read " + "".join(chr(memory[rank * MIB]) for rank in range(3))
print(f"rank {world.rank}: {found};", flush=True)
world.shutdown()
"""


def found_by_three_ranks(before=""):
    done = python("-c", PROGRAM.replace("BEFORE", before), ranks=3)
    assert done.returncode == 0, done.stderr
    return [f"rank {rank}: read ABC;" in done.stdout for rank in range(3)], done.stdout.count("no memory")


@linux_only
def test_every_rank_reads_what_the_others_have_written_and_no_file_is_left():
    assert found_by_three_ranks() == ([True] * 3, 0)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("if hasattr(os, 'memfd_create'): del os.memfd_create", id="another system"),
        pytest.param("if world.is_main: os.getpid = lambda: 2**22 + 1", id="another machine"),
        pytest.param("resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))", id="too little memory"),
        pytest.param("if world.rank == 2: shared_memory.mmap.mmap = fail", id="one rank fails"),
    ],
)
def test_no_rank_has_the_memory_unless_all_have_it(before):
    assert found_by_three_ranks(before) == ([False] * 3, 3)


@linux_only
def test_a_file_of_another_program_is_not_opened():
    """Rank 0 may be on another machine, and its number of a process and of a file may be somebody else's here."""
    ours, other = os.memfd_create("stylefinetune-7"), os.memfd_create("stylefinetune-8")
    try:
        os.truncate(ours, 4096)
        os.truncate(other, 4096)
        assert shared_memory._map(os.getpid(), ours, 7, size=4096) is not None
        assert shared_memory._map(os.getpid(), other, 7, size=4096) is None
    finally:
        os.close(ours)
        os.close(other)
