from pathlib import Path

import pytest

from stylefinetune.data.resident.shares import share_of
from tests.programs import python

PROGRAM = Path(__file__).with_name("shared_batches.py")


@pytest.mark.parametrize(("shards", "ranks"), [("pixel_shards", 3), ("damaged_shards", 2)])
def test_batches_are_bit_for_bit_those_that_are_read(shards, ranks, request):
    """Ranks are processes that send each other pictures."""
    done = python(PROGRAM, request.getfixturevalue(shards), ranks=ranks)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("pictures", "ranks"), [(41, 1), (41, 3), (2, 5)])
def test_each_row_belongs_to_one_rank(pictures, ranks):
    shares = [range(pictures)[share_of(pictures, rank, ranks)] for rank in range(ranks)]
    assert [row for share in shares for row in share] == list(range(pictures))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
