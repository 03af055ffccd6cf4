import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from stylefinetune.config.data import DataConfig
from stylefinetune.config.preprocessing import AugmentConfig
from stylefinetune.data.augmentation.draws import seed_generator
from stylefinetune.data.augmentation.fit import build_fit
from tests.odd_pictures import smooth

PIXELS = smooth(3, 60, 80)
CUT = {"random_resized_crop": True}


def augmented(position=0, seed=5, pixels=PIXELS, **settings):
    data = DataConfig(
        resize="shorter_side",
        image_size=40,
        crop_size=32,
        channels="rgb",
        mean_value=(120.4, 60, 30),
        augment=AugmentConfig(**settings),
    )
    fit = build_fit(data.phase(training=True), seed)
    out = np.zeros((*fit.size, 3), np.uint8)
    fit(pixels, position, out)
    return out


@pytest.mark.parametrize(
    "settings",
    [
        CUT,
        {"policy": "randaugment", **CUT},
        {"policy": "trivialaugment", **CUT},
        {"policy": "augmix", **CUT},
        {"color_jitter": (0.4,)},
        {"random_erasing": 1.0, **CUT},
        {"random_resized_crop": False, "policy": "randaugment"},
    ],
    ids=str,
)
def test_a_picture_depends_on_seed_and_position_only(settings):
    drawn = [augmented(position, **settings) for position in range(8)]
    assert len({each.tobytes() for each in drawn}) > 4
    torch.rand(1)
    np.testing.assert_array_equal(augmented(5, **settings), drawn[5])
    assert not all(np.array_equal(augmented(n, seed=6, **settings), drawn[n]) for n in range(8))


def test_the_state_of_pytorchs_generator_does_not_change():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    augmented(policy="randaugment", **CUT)
    assert torch.equal(torch.rand(1), expected)


def test_the_transforms_are_torchvisions():
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(32, (0.3, 0.9), (0.8, 1.2)),
            v2.RandAugment(3, 7, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(0.1, 0.2, 0.3, 0.4),
        ]
    )
    settings = {"scale": (0.3, 0.9), "ratio": (0.8, 1.2), "policy": "randaugment", "num_ops": 3, "magnitude": 7}
    for position in range(4):
        with seed_generator(5, position):
            expected = reference(Image.fromarray(PIXELS))
        found = augmented(position, color_jitter=(0.1, 0.2, 0.3, 0.4), **settings, **CUT)
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_part_of_a_picture_is_erased_with_the_mean():
    whole, erased = (augmented(random_erasing=share, color_jitter=(0.0,)) for share in (0.0, 1.0))
    changed = (whole != erased).any(axis=2)
    assert 0.01 < changed.mean() < 0.4
    assert {tuple(pixel) for pixel in erased[changed].tolist()} == {(120, 60, 30)}


def test_caffes_pictures_are_changed_before_they_are_cropped_on_the_device():
    data = DataConfig(image_size=(40, 50), crop_size=32, augment=AugmentConfig(policy="trivialaugment"))
    assert build_fit(data.phase(training=True), 1).size == (40, 50)
    assert build_fit(data.phase(training=False), 1) is None
