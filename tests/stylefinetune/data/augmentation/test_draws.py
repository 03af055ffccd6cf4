import numpy as np
import torch

from shards.format.order import DataOrder
from stylefinetune.data.augmentation.draws import draw_values, seed_generator


def test_values_depend_on_seed_and_position_only():
    drawn = [draw_values(seed, position) for seed, position in ((1, 0), (1, 1), (2, 0))]
    assert len({value for values in drawn for value in values.tolist()}) == 12
    np.testing.assert_array_equal(draw_values(1, 1), drawn[1])


def test_they_are_not_those_of_crops_and_mirrors():
    assert set(draw_values(7, 5).tolist()).isdisjoint(DataOrder(10, False, 7).random_values(5, 1).flatten().tolist())


def test_pytorchs_generator_is_seeded_by_the_position_and_restored():
    def draw(position):
        with seed_generator(3, position):
            return torch.rand(1).item()

    before = torch.random.get_rng_state()
    assert draw(1) == draw(1) != draw(2)
    assert torch.equal(torch.random.get_rng_state(), before)
