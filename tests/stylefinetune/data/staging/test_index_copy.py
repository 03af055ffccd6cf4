import pytest

from shards.format.index import ShardIndex
from stylefinetune.config.data import DataConfig
from stylefinetune.data.staging import index_copy
from stylefinetune.data.staging.index_copy import is_in_store, shards_folder
from stylefinetune.errors import UserError
from tests.stylefinetune.data.staging.stores import change, upload


@pytest.fixture(autouse=True)
def new_process():
    """Forget the copies that were made in this process."""
    index_copy._copy_index.cache_clear()


def folder_of(url, **settings):
    index_copy._copy_index.cache_clear()
    return shards_folder(DataConfig(shards=url, **settings))


def test_a_folder_is_used_as_it_is(tmp_path):
    assert shards_folder(DataConfig(shards=str(tmp_path))) == tmp_path
    assert not is_in_store(DataConfig(shards=str(tmp_path)))
    assert is_in_store(DataConfig(shards="s3://bucket/DIR"))


def test_index_and_mean_are_copied_once_to_the_cache_or_to_stage_dir(memory, pixel_shards, tmp_path):
    url = upload(pixel_shards, f"{memory}/DIR")
    folder = folder_of(url)
    assert folder.parent == tmp_path / "cache" / "stylefinetune" / "staged"
    assert "DIR" in folder.name
    for name in ("index.parquet", "mean.npy"):
        assert (folder / name).read_bytes() == (pixel_shards / name).read_bytes()
    inode = (folder / "index.parquet").stat().st_ino
    assert folder_of(f"{url}/") == folder
    assert (folder / "index.parquet").stat().st_ino == inode
    assert folder_of(url, stage_dir=str(tmp_path / "local")).parent == tmp_path / "local"


def test_another_index_has_another_folder_and_a_new_mean_is_copied_again(memory, pixel_shards, original_shards):
    url = upload(pixel_shards, f"{memory}/DIR")
    first = folder_of(url)
    change(url, "mean.npy", b"another")
    assert folder_of(url) == first
    assert (first / "mean.npy").read_bytes() == b"another"
    change(url, "index.parquet", (original_shards / "index.parquet").read_bytes())
    second = folder_of(url)
    assert second != first
    assert ShardIndex.load(second).fingerprint == ShardIndex.load(original_shards).fingerprint


def test_a_url_without_an_index_is_one_line(memory, pixel_shards):
    with pytest.raises(UserError, match=rf"^data.shards: {memory}/DIR has no objects; make it with: .* --out {memory}"):
        folder_of(f"{memory}/DIR")
    url = upload(pixel_shards, f"{memory}/DIR")
    change(url, "index.parquet", None)
    with pytest.raises(UserError, match=r"has no index\.parquet"):
        folder_of(url)


def test_a_folder_that_cannot_be_written_is_one_line(memory, pixel_shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/.*: Not a directory; see data\.stage_dir"):
        folder_of(upload(pixel_shards, f"{memory}/DIR"), stage_dir=str(tmp_path / "file"))
