from pathlib import Path

import pytest

from tests.programs import python

PROGRAM = Path(__file__).with_name("shared_batches.py")


@pytest.mark.parametrize(("shards", "ranks"), [("pixel_shards", 3), ("damaged_shards", 2)])
def test_batches_are_bit_for_bit_those_that_are_read(shards, ranks, request):
    """Ranks are processes that send each other pictures."""
    done = python(PROGRAM, request.getfixturevalue(shards), ranks=ranks)
    assert done.returncode == 0, done.stderr
