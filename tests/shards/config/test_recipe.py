import pytest

from shards.format.index import IndexMetadata
from tests.recipes import make_recipe

STORED = make_recipe(seed=1, rows_per_shard=3, classes=("noir",), list_lengths=(20,))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed 1, not 2"),
        ({"encode_format": "pixels"}, "encode_format original, not pixels"),
        ({"rows_per_shard": 4}, "rows_per_shard 3, not 4"),
        ({"split": "by_owner"}, "split official, not by_owner"),
        ({"url_col": "url"}, "url_col image_url, not url"),
        ({"label_col": None}, "label_col label, not None"),
        ({"classes": ("hazy",)}, "the classes noir, not hazy"),
        ({"list_sha256": "cd" * 32}, None),
        ({"images": 5}, None),
        ({"classes": ("noir", "hazy")}, None),
    ],
)
def test_recipes_differ_in_every_field_that_cannot_grow(change, named):
    assert STORED.difference(make_recipe(**{"seed": 1, "rows_per_shard": 3} | change)) == named


def test_the_index_has_the_facts_of_the_recipe():
    assert make_recipe(classes=("a", "b"), encode_format="pixels", image_size=32).index_metadata == IndexMetadata(
        classes=("a", "b"), encode_format="pixels", image_size=32, list_sha256="ab" * 32, seed=831486
    )
