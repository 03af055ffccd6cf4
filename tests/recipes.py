"""Recipes of DIRs."""

import dataclasses

from shards.config.recipe import Recipe

RECIPE = Recipe(
    list_sha256="ab" * 32,
    images=-1,
    seed=831486,
    labels=None,
    test_share=0.2,
    encode_format="original",
    image_size=0,
    rows_per_shard=1000,
)


def make_recipe(**changes) -> Recipe:
    return dataclasses.replace(RECIPE, **changes)
