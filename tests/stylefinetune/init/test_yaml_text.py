import pytest
import yaml

from stylefinetune.init.yaml_text import line, scalar


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "data/mine.csv",
        "/a/b",
        "",
        "no",
        "1e5",
        "12",
        "a b",
        "a: b",
        "# c",
        'q"',
        "ü",
        "x\ny",
        1,
        0.5,
        1e-5,
        True,
        None,
    ],
)
def test_yaml_reads_the_value_back(value):
    assert yaml.safe_load(f"key: {scalar(value)} # a comment") == {"key": value}


def test_a_long_comment_is_above_its_key():
    assert line("key", "value", "short", 2) == ["  key: value # short"]
    assert line("key", "value", "x" * 110, 2) == [f"  # {'x' * 110}", "  key: value"]
    assert line("key", 3) == ["key: 3"]
