import dataclasses

import pytest

from stylefinetune.config.cli import dump_config, load_config, parse_config
from stylefinetune.config.train import TrainConfig


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_iter": 0}, "train.max_iter is 0; it must be at least 1"),
        ({"display": -1}, "train.display is -1; it must not be negative"),
        ({"epochs": 0.0}, "train.epochs is 0.0; it must be above 0"),
        ({"stall_seconds": 0.0}, "train.stall_seconds is 0; it must be above 0"),
        ({"label_smoothing": 1.0}, r"train.label_smoothing is 1; it must be in \[0, 1\)"),
        ({"class_weights": (1.0, -2.0)}, r"train.class_weights is \[1.0, -2.0\]; the weights must not be negative"),
        ({"class_weights": (0.0, 0.0)}, "the weights must not be negative, and not all 0"),
        ({"class_weights": "balanced", "loss": "bce"}, "train.class_weights is for train.loss softmax; remove it"),
        ({"patience": 2, "test_interval": 0}, "train.patience is 2, but train.test_interval is 0, which tests only at"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_every_setting_is_documented():
    for field in dataclasses.fields(TrainConfig):
        assert f"        {field.name}: " in (TrainConfig.__doc__ or "")


@pytest.mark.parametrize(
    ("text", "value"),
    [("balanced", "balanced"), ("1,2,0.5", (1.0, 2.0, 0.5)), ("[1, 2]", (1.0, 2.0)), ("null", None)],
)
def test_class_weights_are_a_word_or_numbers_also_after_a_checkpoint(tmp_path, text, value):
    config = parse_config([f"--train.class_weights={text}"])
    assert config.train.class_weights == value
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
