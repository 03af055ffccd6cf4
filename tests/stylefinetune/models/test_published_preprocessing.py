import pytest

from stylefinetune.errors import UserError
from stylefinetune.models.published_preprocessing import published_preprocessing

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.mark.parametrize(
    ("weights", "image_size"),
    [
        ("IMAGENET1K_V1", 256),
        ("IMAGENET1K_V2", 232),
        ("DEFAULT", 232),
        ("/any/resnet50-0676ba61.pth", 256),
        ("mine.safetensors", 232),
        (None, 232),
    ],
)
def test_torchvisions_weights_have_their_own_size_which_a_file_shows_by_its_name(weights, image_size):
    found = published_preprocessing("resnet50", weights)
    assert (found.resize, found.interpolation, found.channels) == ("shorter_side", "bilinear", "rgb")
    assert (found.image_size, found.crop_size) == (image_size, 224)
    assert (found.mean_value, found.std_value) == (MEAN, STD)


def test_random_weights_have_imagenets_mean_and_the_networks_size():
    published = published_preprocessing("efficientnet_v2_l", "DEFAULT")
    random = published_preprocessing("efficientnet_v2_l", None)
    assert (published.mean_value, published.crop_size) == ((127.5, 127.5, 127.5), 480)
    assert (random.mean_value, random.std_value, random.crop_size) == (MEAN, STD, 480)


def test_timms_weights_have_the_size_and_mean_of_their_data_config():
    found = published_preprocessing("timm/vit_base_patch16_224", "DEFAULT")
    assert (found.image_size, found.crop_size, found.interpolation) == (248, 224, "bicubic")
    assert (found.mean_value, found.std_value) == ((127.5,) * 3, (127.5,) * 3)


def test_an_unknown_network_is_a_user_error():
    with pytest.raises(UserError, match=r"model\.arch is 'resnet51', an unknown network"):
        published_preprocessing("resnet51", None)
