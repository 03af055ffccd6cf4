import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.format.tar import TarMember, members_of, read_pictures


def test_pictures_come_in_the_order_asked_for_whatever_their_shard(original_shards):
    table = pq.read_table(original_shards / "index.parquet")
    members = members_of(table)
    sizes = list(zip(table.column("height").to_pylist(), table.column("width").to_pylist(), strict=True))
    assert len({member.shard for member in members}) > 2
    backwards = [pixels.shape[:2] for pixels in read_pictures(original_shards, reversed(members))]
    assert backwards == sizes[::-1]


def test_a_picture_that_is_none_is_named_with_the_command_that_says_more(original_shards):
    first = members_of(pq.read_table(original_shards / "index.parquet"))[0]
    with pytest.raises(ShardsError, match=r"test/00000.tar.*python -m shards verify"):
        list(read_pictures(original_shards, [first._replace(length=100)]))


def test_a_shard_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ShardsError, match=r"train/7.tar: No such file"):
        list(read_pictures(tmp_path, [TarMember("train/7.tar", 0, 1, "jpg")]))
