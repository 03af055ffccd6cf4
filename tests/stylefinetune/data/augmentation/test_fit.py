from stylefinetune.config.data import DataConfig
from stylefinetune.data.augmentation.fit import build_fit

KEPT = DataConfig(resize="shorter_side", image_size=40, crop_size=32)


def test_caffes_pictures_are_only_resized():
    assert build_fit(DataConfig().phase(training=True), seed=1) is None


def test_tests_are_cut_at_the_centre_and_training_pictures_at_random():
    assert build_fit(KEPT.phase(training=False), seed=1).is_fixed
    assert not build_fit(KEPT.phase(training=True), seed=1).is_fixed
