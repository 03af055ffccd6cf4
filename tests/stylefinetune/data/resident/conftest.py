import shutil

import pytest

from tests.stylefinetune.data.loading import open_pictures


@pytest.fixture
def damaged_shards(original_shards, tmp_path):
    """Shards in which the pictures of rows 3 and 30 can't be decoded."""
    shards = tmp_path / "damaged"
    shutil.copytree(original_shards, shards)
    entries = open_pictures(shards).entries
    for row in (3, 30):
        with (shards / entries.shard[row]).open("r+b") as tar:
            tar.seek(int(entries.offset[row]))
            tar.write(b"\0" * int(entries.length[row]))
    return shards
