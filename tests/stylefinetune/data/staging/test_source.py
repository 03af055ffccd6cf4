import os
import re

import pytest

from shards.format.index import ShardIndex
from stylefinetune.config.data import DataConfig
from stylefinetune.data.staging.index_copy import shards_folder
from stylefinetune.data.staging.source import ShardFolder, ShardStore, shard_source
from stylefinetune.errors import UserError
from tests.stylefinetune.data.staging.stores import change, upload

SHARD = "train/00000.tar"


@pytest.fixture(params=["folder", "store"])
def source(request, pixel_shards):
    """The same shards in a folder and in a store."""
    if request.param == "folder":
        return ShardFolder(pixel_shards)
    return ShardStore(upload(pixel_shards, f"{request.getfixturevalue('bucket')}/DIR"))


def test_shards_are_read_from_front_to_back_and_again(source, pixel_shards):
    content = (pixel_shards / SHARD).read_bytes()
    version = source.version(SHARD)
    assert version[0] == len(content)
    with source.open(SHARD) as file:
        assert file.read(1000) + file.read(len(content)) == content
        assert file.read(1) == b""
    assert source.read_again(SHARD, 500, 1000) == content[500:1500]
    assert source.name(SHARD).endswith(f"/{SHARD}")
    source.check_unchanged(SHARD, version)
    assert source.version("train/99999.tar") is None


def test_an_object_that_changes_is_an_error(bucket, pixel_shards):
    url = upload(pixel_shards, f"{bucket}/DIR")
    store = ShardStore(url)
    version = store.version(SHARD)
    change(url, SHARD, b"x" * 5000)
    message = rf"^{url}/{SHARD} changed while it was copied"
    with pytest.raises(UserError, match=message):
        store.check_unchanged(SHARD, version)
    with pytest.raises(UserError, match=message), store.open(SHARD) as file:
        file.read(version[0])  # the new object is shorter


def test_a_folder_of_copies_has_the_store_as_its_source(memory, pixel_shards):
    folder = shards_folder(DataConfig(shards=upload(pixel_shards, f"{memory}/DIR")))
    assert shard_source(folder).name("") == f"{memory}/DIR/"
    assert shard_source(pixel_shards).name("") == str(pixel_shards)
    assert ShardIndex.load(folder).fingerprint == ShardIndex.load(pixel_shards).fingerprint


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/DIR", "data.shards: s3://no-such-bucket/DIR: not found"),
        ("sftp://host/DIR", "data.shards: sftp://host/DIR: a store must be s3:// or gs://"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_a_store_that_cannot_be_read_is_one_line(url, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}.*$") as error:
        ShardStore(url)
    assert os.linesep not in str(error.value)
