import pytest

from shards.errors import ShardsError
from shards.local.fetch import fetch_file
from tests.loopback import Answer


def test_a_failure_that_may_pass_is_tried_again(server, tmp_path):
    url = server.add("/a", Answer(status=503), Answer(b"12345678", transfer="truncated"), Answer(b"12345678"))
    fetch_file(url, tmp_path / "new" / "a")
    assert (tmp_path / "new" / "a").read_bytes() == b"12345678"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_failure_is_one_line_and_leaves_no_file(server, tmp_path):
    for url in (server.add("/b", Answer(b"12345678", transfer="truncated")), f"{server.url}/nosuch", "http://[::1/a"):
        with pytest.raises(ShardsError) as caught:
            fetch_file(url, tmp_path / "b")
        assert str(caught.value).startswith(url)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "b").exists()
