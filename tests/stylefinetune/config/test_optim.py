import pytest

from stylefinetune.config.optim import LayerRule, OptimConfig


def test_a_value_out_of_range_is_refused_also_in_python():
    with pytest.raises(ValueError, match=r"optim\.momentum is 1; it must be in \[0, 1\)"):
        OptimConfig(momentum=1)
    with pytest.raises(ValueError, match=r"optim\.betas is \[0.9, 1\]; both must be in \[0, 1\)"):
        OptimConfig(optimizer="adamw", betas=(0.9, 1))
    with pytest.raises(ValueError, match=r"optim\.layer_decay is 1\.1; it must be above 0 and at most 1"):
        OptimConfig(layer_decay=1.1)
    with pytest.raises(ValueError, match=r"optim\.layers\.freeze_until is -1; it must not be negative"):
        LayerRule("*", freeze_until=-1)
    with pytest.raises(ValueError, match=r"optim\.nesterov needs a momentum"):
        OptimConfig(optimizer="sgd", nesterov=True, momentum=0.0)
    with pytest.raises(ValueError, match=r"optim\.gamma is -0\.1; with optim\.lr_policy inv it must not be negative"):
        OptimConfig(lr_policy="inv", gamma=-0.1)


def test_by_default_biases_have_no_rate_of_their_own_and_no_decay():
    rule = LayerRule("fc8_*", lr_mult=10.0)
    assert (rule.decay_mult, rule.bias_lr_mult, rule.bias_decay_mult) == (1.0, None, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": "adamw", "lars_trust": 0.1},
            "optim.lars_trust is a setting of caffe_sgd, and optim.optimizer is adamw",
        ),
        ({"eps": 0.1}, "optim.eps is a setting of adamw, rmsprop, and optim.optimizer is caffe_sgd"),
        ({"optimizer": "rmsprop", "betas": (0.5, 0.5)}, "optim.betas is a setting of adamw"),
        ({"nesterov": True}, "optim.nesterov is a setting of sgd"),
        ({"optimizer": "adamw", "momentum": 0.8}, "optim.momentum is a setting of caffe_sgd, sgd, rmsprop"),
    ],
)
def test_a_setting_that_the_optimizer_does_not_have_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"{message}.*; remove it"):
        OptimConfig(**settings)
