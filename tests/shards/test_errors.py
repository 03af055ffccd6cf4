import pytest

from shards.errors import ConfigError, ShardsError


@pytest.mark.parametrize("kind", [ShardsError, ConfigError])
def test_errors_for_the_user_are_value_errors(kind):
    assert issubclass(kind, ValueError)
