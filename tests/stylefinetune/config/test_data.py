import pytest

from stylefinetune.config.data import DataConfig, TestDataConfig


def test_testing_shares_the_settings_of_training_except_mirror_and_shuffle():
    data = DataConfig(batch_size=7, crop_size=200, mirror=True, shuffle=True, mean_file="a.npy", scale=0.5)
    training, testing = (data.phase(training=training) for training in (True, False))
    windowed = DataConfig(shuffle=True, shuffle_window=8)
    assert [windowed.phase(training=training).shuffle_window for training in (True, False)] == [8, 0]
    assert (training.training, training.split, training.mirror, training.shuffle) == (True, "train", True, True)
    assert (testing.training, testing.split, testing.mirror, testing.shuffle) == (False, "test", False, False)
    for phase in (training, testing):
        assert (phase.batch_size, phase.crop_size, phase.mean_file, phase.scale) == (7, 200, "a.npy", 0.5)
        assert phase.image_size == (256, 256)


def test_training_is_shuffled_unless_it_is_switched_off():
    assert [DataConfig(shuffle=given).phase(training=True).shuffle for given in (None, True, False)] == [
        True,
        True,
        False,
    ]
    assert DataConfig(shuffle_window=8).phase(training=True).shuffle
    assert not DataConfig().phase(training=False).shuffle


def test_classes_are_balanced_and_pictures_mixed_in_training_only():
    data = DataConfig(balanced=True, cutmix=1.0)
    assert [data.phase(training=training).balanced for training in (True, False)] == [True, False]
    assert data.is_mixed
    assert not DataConfig().is_mixed
    for setting in ({"shuffle": False}, {"shuffle_window": 4}):
        with pytest.raises(ValueError, match=r"data.balanced draws the pictures at random from all shards"):
            DataConfig(balanced=True, **setting)
    with pytest.raises(ValueError, match=r"data.mixup is -1; it must not be negative"):
        DataConfig(mixup=-1)
    with pytest.raises(ValueError, match=r"data.mixup_prob is 1.5; it must be between 0 and 1"):
        DataConfig(mixup_prob=1.5)


def test_settings_for_testing_override_those_of_training():
    own = TestDataConfig(split="val", batch_size=3, image_size=(80, 100), crop_size=0, mirror=True, scale=2.0)
    phase = DataConfig(test=own).phase(training=False)
    assert (phase.split, phase.batch_size, phase.image_size, phase.crop_size) == ("val", 3, (80, 100), 0)
    assert (phase.mirror, phase.scale) == (True, 2.0)


def test_mean_values_for_testing_replace_the_mean_file():
    data = DataConfig(mean_file="a.npy", test=TestDataConfig(mean_value=(104.0, 117.0, 123.0)))
    phase = data.phase(training=False)
    assert (phase.mean_file, phase.mean_value) == ("", (104.0, 117.0, 123.0))


def test_an_image_size_of_0_does_not_resize():
    assert DataConfig(image_size=0, crop_size=75).phase(training=True).image_size is None


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (lambda: DataConfig(split=""), "data.split is empty"),
        (lambda: DataConfig(stage_bytes=0), "data.stage_bytes is 0; it must be above 0"),
        (lambda: DataConfig(shuffle=True, shuffle_window=-1), "data.shuffle_window is -1; it must not be negative"),
        (lambda: DataConfig(shuffle=False, shuffle_window=8), r"data\.shuffle_window is 8; .* needs data\.shuffle"),
        (lambda: DataConfig(batch_size=0), "data.batch_size is 0; it must be at least 1"),
        (lambda: DataConfig(image_size=(256, 0)), r"data.image_size is \[256, 0\]; sides must be at least 1"),
        (lambda: DataConfig(crop_size=-1), "data.crop_size is -1; it must be between 0 and"),
        (
            lambda: DataConfig(image_size=(100, 300), crop_size=227),
            r"data.crop_size is 227; .* the picture's side \(100\)",
        ),
        (lambda: DataConfig(test=TestDataConfig(crop_size=300)), "data.test.crop_size is 300"),
        (lambda: DataConfig(test=TestDataConfig(mean_value=(1.0, 2.0))), "data.test.mean_value has 2 values"),
        (
            lambda: DataConfig(channels="rgb", mean_value=(1.0, 2.0)),
            "data.mean_value has 2 values; give one, or three in the order R,G,B",
        ),
        (
            lambda: DataConfig(std_value=(1.0, 2.0)),
            "data.std_value has 2 values; give one, or three in the order B,G,R",
        ),
        (
            lambda: DataConfig(std_value=(0.229, 0.224, 0.225)),
            r"data.std_value is \[0.229, 0.224, 0.225\]; it is for values from 0 to 255",
        ),
        (
            lambda: DataConfig(resize="warp", interpolation="bicubic"),
            "data.interpolation is bicubic, and data.resize=warp is bilinear",
        ),
        (
            lambda: DataConfig(resize="shorter_side", crop_size=0),
            "data.crop_size is 0; data.resize=shorter_side needs a",
        ),
        (
            lambda: DataConfig(resize="shorter_side", test=TestDataConfig(image_size=(256, 300))),
            r"data.test.image_size is \[256, 300\]; data.resize=shorter_side needs one length",
        ),
        (
            lambda: DataConfig(test=TestDataConfig(mean_value=(1.0,), mean_file="a")),
            "data.test.mean_file and data.test.mean_value are both set",
        ),
    ],
)
def test_an_invalid_value_is_an_error_that_names_the_key(data, line):
    with pytest.raises(ValueError, match=line):
        data()
