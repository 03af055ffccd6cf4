from pathlib import Path

import pytest

from shards.errors import ShardsError
from shards.location import cache_folder, object_store_url, refuse_url, url_of


@pytest.mark.parametrize(
    ("path", "url", "store"),
    [
        ("a/b", None, None),
        ("/a:/b", None, None),
        ("file:///a", "file:///a", None),
        ("gs://a/b/", "gs://a/b", "gs://a/b"),
        ("s3://bucket/DIR", "s3://bucket/DIR", "s3://bucket/DIR"),
    ],
)
def test_a_url_given_as_a_path_is_restored(path, url, store):
    assert url_of(Path(path)) == url
    assert object_store_url(Path(path)) == store


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://a/b c", "s3://a/b c: a folder is needed here, not a URL; .*: aws s3 cp --recursive 's3://a/b c' DIR"),
        ("gs://a/b", "gs://a/b: .*; copy it down first: gcloud storage cp --recursive gs://a/b DIR"),
        ("hf://a/b", "hf://a/b: .*; copy it down first"),
        ("file:///a/b", "file:///a/b: .*; give its path, /a/b"),
    ],
)
def test_a_url_is_refused_with_the_command_that_copies_it(url, message):
    with pytest.raises(ShardsError, match=f"^{message}$"):
        refuse_url(Path(url))


def test_a_folder_is_not_refused():
    refuse_url(Path("a/b"))


def test_the_cache_folder_follows_xdg_cache_home(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache_folder() == Path("/fast/stylefinetune")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "stylefinetune"
