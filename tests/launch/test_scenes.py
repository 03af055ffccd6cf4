import numpy as np
import pytest

from launch.scenes import SCENES, paint


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("seed", range(5))
def test_every_scene_paints_over_its_canvas(scene, seed):
    canvas = np.full((240, 320, 3), 7, np.uint8)
    scene(canvas, np.random.default_rng(seed))
    assert (canvas != 7).any(axis=2).mean() > 0.02


def test_sizes_vary_within_their_bounds():
    shapes = [paint(np.random.default_rng(seed)).shape[:2] for seed in range(60)]
    assert all(320 <= max(shape) <= 500 and min(shape) >= 213 for shape in shapes)
    assert len(set(shapes)) > 40
    assert {height > width for height, width in shapes} == {True, False}
