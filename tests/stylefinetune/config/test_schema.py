import pytest

from stylefinetune.config.schema import ModelConfig


def test_a_value_out_of_range_is_refused_also_in_python():
    with pytest.raises(ValueError, match=r"model\.dropout is 1; it must be in \[0, 1\)"):
        ModelConfig(dropout=1)


def test_a_setting_of_caffenet_is_refused_with_another_network():
    with pytest.raises(ValueError, match=r"model\.last_layer is a setting of caffenet, and model\.arch is resnet18"):
        ModelConfig(arch="resnet18", last_layer="fc8_mine")
