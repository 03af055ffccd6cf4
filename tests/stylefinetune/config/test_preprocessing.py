import pytest

from stylefinetune.config.data import DataConfig
from stylefinetune.config.preprocessing import CAFFE, AugmentConfig


def test_settings_that_are_not_set_are_caffes():
    phase = DataConfig().phase(training=True)
    assert (phase.resize, phase.interpolation, phase.channels) == (CAFFE.resize, CAFFE.interpolation, CAFFE.channels)
    assert (phase.image_size, phase.crop_size) == ((256, 256), 227)
    assert (phase.mean_value, phase.std_value) == ((), ())
    assert not phase.augment.is_used


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"scale": (0.5, 0.2)}, r"data\.augment\.scale is \[0.5, 0.2\]; it must be two ascending fractions"),
        ({"scale": (0.0, 1.0)}, r"data\.augment\.scale is"),
        ({"scale": (0.5, 1.5)}, r"data\.augment\.scale is"),
        ({"ratio": (2.0, 1.0)}, r"data\.augment\.ratio is \[2.0, 1.0\]; it must be two ascending ratios"),
        ({"num_ops": 0}, r"data\.augment\.num_ops is 0; it must be at least 1"),
        ({"magnitude": 31}, r"data\.augment\.magnitude is 31; it must be from 0 to 30"),
        ({"color_jitter": (0.1, 0.2)}, r"data\.augment\.color_jitter is \[0.1, 0.2\]; give one value, or four"),
        ({"color_jitter": (-0.1,)}, r"data\.augment\.color_jitter is \[-0.1\]; .* none of them negative"),
        ({"color_jitter": (0, 0, 0, 0.6)}, r"changes the hue by 0.6; it must be at most 0.5"),
        ({"random_erasing": 1.5}, r"data\.augment\.random_erasing is 1.5; it must be from 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_key(settings, line):
    with pytest.raises(ValueError, match=line):
        AugmentConfig(**settings)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"image_size": 0, "policy": "augmix"}, r"data\.image_size is 0; data\.augment needs the size"),
        ({"crop_size": 0, "random_resized_crop": True}, r"data\.crop_size is 0; data\.augment\.random_resized_crop"),
        (
            {"mean_file": "a.npy", "random_erasing": 0.5},
            r"data\.mean_file is a picture, .* set data\.mean_value instead",
        ),
    ],
)
def test_augmentation_that_the_other_settings_do_not_allow_is_an_error(data, line):
    names = {name: data.pop(name) for name in ("policy", "random_resized_crop", "random_erasing") if name in data}
    with pytest.raises(ValueError, match=line):
        DataConfig(**data, augment=AugmentConfig(**names))
