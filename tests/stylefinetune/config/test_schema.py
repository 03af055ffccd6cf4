import pytest

from stylefinetune.config.schema import Config, ModelConfig


def test_a_value_out_of_range_is_refused_also_in_python():
    with pytest.raises(ValueError, match=r"model\.dropout is 1; it must be in \[0, 1\)"):
        ModelConfig(dropout=1)


def test_a_setting_of_caffenet_is_refused_with_another_network():
    with pytest.raises(ValueError, match=r"model\.last_layer is a setting of caffenet, and model\.arch is resnet18"):
        ModelConfig(arch="resnet18", last_layer="fc8_mine")


def test_the_iterations_to_profile_are_an_interval():
    assert Config().profiled == range(0)
    assert Config(profile="100:110").profiled == range(100, 110)
    for wrong in ("100", "110:100", "5:5", "a:b"):
        with pytest.raises(ValueError, match=f"profile is {wrong}; give the first iteration and the one after"):
            Config(profile=wrong)


def test_a_caffe_net_has_a_prototxt_which_says_its_dropout():
    for wrong in ({"arch": "caffe"}, {"prototxt": "layer {}"}, {"arch": "resnet18", "prototxt": "layer {}"}):
        with pytest.raises(ValueError, match=r"model.arch caffe and model.prototxt need each other"):
            ModelConfig(**wrong)
    with pytest.raises(ValueError, match=r"model.dropout is set, but model.prototxt says it; remove it"):
        ModelConfig(arch="caffe", prototxt="layer {}", dropout=0.5)
