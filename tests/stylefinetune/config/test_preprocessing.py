from stylefinetune.config.data import DataConfig
from stylefinetune.config.preprocessing import CAFFE


def test_settings_that_are_not_set_are_caffes():
    phase = DataConfig().phase(training=True)
    assert (phase.resize, phase.interpolation, phase.channels) == (CAFFE.resize, CAFFE.interpolation, CAFFE.channels)
    assert (phase.image_size, phase.crop_size) == ((256, 256), 227)
    assert (phase.mean_value, phase.std_value) == ((), ())
