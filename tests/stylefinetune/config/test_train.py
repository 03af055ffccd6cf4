import dataclasses

import pytest

from stylefinetune.config.train import TrainConfig


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_iter": 0}, "train.max_iter is 0; it must be at least 1"),
        ({"display": -1}, "train.display is -1; it must not be negative"),
        ({"epochs": 0.0}, "train.epochs is 0.0; it must be above 0"),
        ({"stall_seconds": 0.0}, "train.stall_seconds is 0; it must be above 0"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_every_setting_is_documented():
    for field in dataclasses.fields(TrainConfig):
        assert f"        {field.name}: " in (TrainConfig.__doc__ or "")
