import pytest

from shards.counted import counted


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "picture", "0 pictures"),
        (1, "picture", "1 picture"),
        (2000, "training picture", "2,000 training pictures"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (4, "batch", "4 batches"),
    ],
)
def test_the_noun_agrees_with_the_number(count, noun, expected):
    assert counted(count, noun) == expected
