import hashlib
from pathlib import Path

import pytest

from shards.errors import ShardsError
from shards.url_list.flickr_style import FLICKR_STYLE_SHA256
from shards.url_list.source import fetch_cached, read_source
from tests.loopback import Answer


def test_a_file_and_a_url_are_read_alike(tmp_path, server):
    (tmp_path / "a.csv").write_bytes(b"image_url,label\n")
    url = server.add("/lists/a.csv", Answer(b"image_url,label\n"))
    local, remote = read_source([str(tmp_path / "a.csv")]), read_source([url])
    assert local.open().read() == remote.open().read() == b"image_url,label\n"
    assert local.sha256 == remote.sha256 == hashlib.sha256(b"image_url,label\n").hexdigest()
    assert not local.is_local


def test_a_caffe_list_is_given_with_its_split(tmp_path):
    (tmp_path / "a b.txt").write_bytes(b"x 1\n")
    source = read_source([f"train={tmp_path / 'a b.txt'}"])
    assert source.is_local
    assert source.parts == {"train": b"x 1\n"}


def test_the_hash_of_caffe_lists_depends_on_their_splits(tmp_path):
    (tmp_path / "a").write_bytes(b"x 1\n")
    (tmp_path / "b").write_bytes(b"y 2\n")
    a, b = tmp_path / "a", tmp_path / "b"
    assert read_source([f"train={a}", f"test={b}"]).sha256 != read_source([f"train={b}", f"test={a}"]).sha256


def test_the_official_list_is_read_from_the_cache(tmp_path, monkeypatch):
    official = Path(__file__).parents[4] / "shared" / "data" / "flickr_style.csv.gz"
    if not official.is_file():
        pytest.skip(f"the official list isn't here: no {official}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "stylefinetune").mkdir()
    (tmp_path / "stylefinetune" / "flickr_style.csv.gz").write_bytes(official.read_bytes())
    assert read_source(["flickr_style"]).sha256 == FLICKR_STYLE_SHA256


def test_a_cached_file_is_downloaded_once_and_again_when_damaged(tmp_path, server):
    url = server.add("/big/list.csv.gz", Answer(b"the list"))
    digest = hashlib.sha256(b"the list").hexdigest()
    for _ in range(2):
        assert fetch_cached(url, digest, tmp_path / "cache") == b"the list"
    assert len(server.request_times("/big/list.csv.gz")) == 1
    (tmp_path / "cache" / "list.csv.gz").write_bytes(b"damaged")
    assert fetch_cached(url, digest, tmp_path / "cache") == b"the list"
    assert len(server.request_times("/big/list.csv.gz")) == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["list.csv.gz"]


def test_another_hash_is_refused_and_not_kept(tmp_path, server):
    url = server.add("/list.csv.gz", Answer(b"forged"))
    with pytest.raises(ShardsError, match="sha256"):
        fetch_cached(url, "0" * 64, tmp_path)
    assert not list(tmp_path.iterdir())


def test_http_proxy_is_honoured(server, monkeypatch):
    server.add("http://lists.example.com/a.csv", Answer(b"through the proxy"))
    monkeypatch.setenv("http_proxy", server.url)
    assert read_source(["http://lists.example.com/a.csv"]).parts == {"": b"through the proxy"}


@pytest.mark.parametrize(
    "lists",
    [
        ["nosuch.csv"],
        ["a\0b.csv"],
        ["~no_such_user/a.csv"],
        ["http://[::1/a.csv"],
        [f"http://{'a' * 70}.example/a.csv"],
        ["train=nosuch.txt"],
        ["http://127.0.0.1:1/a.csv"],
        ["a.csv", "b.csv"],
        [],
        ["file:///etc/passwd"],
    ],
)
def test_a_list_that_cannot_be_read_is_refused_in_one_line(lists):
    with pytest.raises(ShardsError) as caught:
        read_source(lists)
    assert "\n" not in str(caught.value)


def test_a_host_that_is_not_there_is_reported_with_the_cause_and_what_to_do():
    with pytest.raises(ShardsError) as caught:
        read_source(["http://127.0.0.1:1/a.csv"])
    assert str(caught.value).startswith("--list http://127.0.0.1:1/a.csv can't be downloaded (")
    assert str(caught.value).endswith("refused); download it elsewhere, and give its path")
    assert "urllib3" not in str(caught.value)
    assert "Max retries" not in str(caught.value)


def test_an_http_error_is_reported(server):
    with pytest.raises(ShardsError, match="404"):
        read_source([server.url + "/nosuch.csv"])


def test_a_split_cannot_have_two_lists(tmp_path):
    (tmp_path / "a").write_bytes(b"x 1\n")
    with pytest.raises(ShardsError, match="train"):
        read_source([f"train={tmp_path / 'a'}", f"train={tmp_path / 'a'}"])
