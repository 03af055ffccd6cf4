import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_weight

from shards.format.images import decode_picture
from stylefinetune.config.data import DataConfig
from stylefinetune.data.augmentation.fit import build_fit
from stylefinetune.data.augmentation.shorter_side import ShorterSide
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.models.published_preprocessing import published_preprocessing
from stylefinetune.training.preprocessing import _fill
from tests.odd_pictures import smooth

CPU = torch.device("cpu")


def fitted(fit, pixels, position=0):
    out = np.zeros((*fit.size, 3), np.uint8)
    fit(pixels, position, out)
    return out


def network_input(pixels, arch, name):
    """Return what a test gives to the network, float32[3, H, W]."""
    data = _fill(DataConfig(), published_preprocessing(arch, name))
    phase = data.phase(training=False)
    picture = torch.from_numpy(fitted(build_fit(phase, seed=1), pixels))[None]
    centre = torch.zeros(1, dtype=torch.int64)
    crops = Crops(centre, centre, centre.bool(), (phase.crop_size, phase.crop_size))
    return Transform.for_phase(torch.tensor(phase.mean_value).reshape(1, 1, 3), phase, CPU)(picture, crops)[0]


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V2"),
        ("inception_v3", "DEFAULT"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("efficientnet_v2_l", "DEFAULT"),
        ("vgg16", "IMAGENET1K_FEATURES"),
    ],
)
def test_a_test_gives_the_network_what_torchvision_publishes_with_the_weights(drawn, arch, name):
    weights = get_weight(f"{_enumeration(arch)}.{name}")
    for picture in ("test_000.jpg", "test_001.jpg", "test_002.jpg"):
        body = (drawn.folder / picture).read_bytes()
        pixels = decode_picture(body)
        ours = network_input(pixels, arch, name)
        theirs = weights.transforms()(Image.fromarray(pixels))
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        level = 1 / 255 / min(weights.transforms().std)  # libjpeg's version may decode to other pixels
        by_pillow = weights.transforms()(Image.open(io.BytesIO(body)).convert("RGB"))
        assert (ours - by_pillow).abs().mean() < level


def _enumeration(arch):
    from torchvision.models import get_model_weights

    return get_model_weights(arch).__name__


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_test_gives_the_network_what_timm_does(drawn, name):
    import timm
    from timm.data import create_transform, resolve_data_config

    pixels = decode_picture((drawn.folder / "test_003.jpg").read_bytes())
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = create_transform(**config)(Image.fromarray(pixels))
    torch.testing.assert_close(network_input(pixels, f"timm/{name}", "DEFAULT"), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (41, 90), (333, 51), (20, 23)])
def test_pictures_of_any_shape_are_cut_where_torchvision_cuts(height, width):
    from torchvision.transforms import v2

    pixels = smooth(1, height, width)
    published = v2.Compose([v2.Resize(37), v2.CenterCrop(32)])
    np.testing.assert_array_equal(
        fitted(ShorterSide(37, 32, "bilinear", None), pixels), np.asarray(published(Image.fromarray(pixels)))
    )


def test_a_very_long_picture_is_cut_before_it_is_resized():
    long = np.full((1, 3_000_000, 3), 77, np.uint8)  # 3 GB if its shorter side were resized to 32
    assert (fitted(ShorterSide(32, 32, "bilinear", None), long) == 77).all()


def test_places_in_training_depend_on_seed_and_position_only():
    pixels, fit = smooth(2, 60, 90), ShorterSide(40, 32, "bilinear", 5)
    assert not fit.is_fixed
    drawn = [fitted(fit, pixels, position) for position in range(20)]
    assert len({each.tobytes() for each in drawn}) > 10
    np.testing.assert_array_equal(fitted(ShorterSide(40, 32, "bilinear", 5), pixels, 11), drawn[11])
    assert not np.array_equal(fitted(ShorterSide(40, 32, "bilinear", 6), pixels, 11), drawn[11])
