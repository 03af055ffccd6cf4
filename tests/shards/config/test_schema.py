from pathlib import Path

import pytest

from shards.config.schema import AssembleConfig, Partition
from shards.errors import ConfigError


def test_workers_below_zero_leave_cores_free():
    assert AssembleConfig(list="a", out=Path("x"), workers=-1000).worker_count == 1
    assert AssembleConfig(list="a", out=Path("x"), workers=7).worker_count == 7


def test_a_partition_is_parsed():
    assert AssembleConfig(list="a", out=Path("x"), partition="2/16").block_partition == Partition(2, 16)
    assert AssembleConfig(list="a", out=Path("x")).block_partition is None


def test_one_list_and_several_are_sequences():
    assert AssembleConfig(list="a", out=Path("x")).lists == ["a"]
    assert AssembleConfig(list=["train=a", "test=b"], out=Path("x")).lists == ["train=a", "test=b"]


def test_a_value_out_of_range_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^timeout is 0; it must be at least 1$"):
        AssembleConfig(list="a", out=Path("x"), timeout=0)


def test_a_proxys_password_is_not_in_the_message():
    with pytest.raises(ConfigError) as caught:
        AssembleConfig(list="a", out=Path("x"), proxy="http://me:secret@h:port")
    assert "proxy is h:port" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://h:8080", "h:80", "127.0.0.1", "http://u:p@h:8080/", "http://[::1]:3128"])
def test_a_valid_proxy_is_accepted(proxy):
    assert AssembleConfig(list="a", out=Path("x"), proxy=proxy).proxy == proxy
