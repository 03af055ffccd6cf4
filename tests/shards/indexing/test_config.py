from pathlib import Path

import pytest

from shards.errors import ConfigError
from shards.indexing.config import IndexConfig


def rules(**settings):
    return IndexConfig(("a.tar",), Path("out"), **settings).rules


def test_a_label_key_means_json():
    assert rules().label_from == "cls"
    assert rules(label_key="style").label_from == "json"
    assert rules(picture_ext=".JPG").picture_ext == "jpg"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_from": "txt", "label_key": "a"}, "label_key is for label_from json, not txt"),
        ({"label_from": "json"}, "needs the key of the label in the JSON: --label_key KEY"),
        ({"split": "a/b"}, "split is 'a/b'"),
        ({"test_share": 1.0}, "test_share is 1.0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError) as caught:
        rules(**settings)
    assert message in str(caught.value)
