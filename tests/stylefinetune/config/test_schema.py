import pytest

from stylefinetune.config.schema import LayerRule, OptimConfig


def test_a_value_out_of_range_is_refused_by_name_however_it_is_given():
    with pytest.raises(ValueError, match=r"optim\.momentum is 1; it must be in \[0, 1\)"):
        OptimConfig(momentum=1)


def test_a_rule_leaves_the_biases_to_caffes_custom():
    rule = LayerRule("fc8_*", lr_mult=10.0)
    assert (rule.decay_mult, rule.bias_lr_mult, rule.bias_decay_mult) == (1.0, None, 0.0)
