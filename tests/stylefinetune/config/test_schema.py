import pytest

from stylefinetune.config.schema import LayerRule, OptimConfig


def test_a_value_out_of_range_is_refused_also_in_python():
    with pytest.raises(ValueError, match=r"optim\.momentum is 1; it must be in \[0, 1\)"):
        OptimConfig(momentum=1)


def test_by_default_biases_have_twice_the_rate_and_no_decay():
    rule = LayerRule("fc8_*", lr_mult=10.0)
    assert (rule.decay_mult, rule.bias_lr_mult, rule.bias_decay_mult) == (1.0, None, 0.0)
