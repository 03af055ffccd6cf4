import dataclasses
import re
from pathlib import Path

import pytest

from shards.config.schema import AssembleConfig, Partition, count_processes, suffix_of
from shards.errors import ConfigError
from tests.programs import ROOT


def test_workers_below_zero_leave_cores_free():
    assert count_processes(-1000) == 1
    assert count_processes(7) == 7


def test_a_partition_is_parsed():
    assert AssembleConfig(list="a", out=Path("x"), partition="2/16").block_partition == Partition(2, 16)
    assert [suffix_of(partition) for partition in (Partition(2, 16), None)] == ["-2-of-16", ""]
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


def test_the_table_in_the_docs_has_every_setting():
    text = (ROOT / "docs" / "crawl_reference.md").read_text().partition("## Settings of `assemble`\n")[2]
    first_cells = re.findall(r"^\| (`.+?) \|", text.partition("\n## ")[0], re.MULTILINE)
    names = {field.name for field in dataclasses.fields(AssembleConfig)}
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == names
