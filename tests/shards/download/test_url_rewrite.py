import pytest

from shards.config.schema import Rewrite
from shards.download.url_rewrite import is_web_url, rewrite

FLICKR = Rewrite(r"https?://farm\d+\.static\.?flickr\.com/", "https://live.staticflickr.com/")


@pytest.mark.parametrize(
    ("url", "rewritten"),
    [
        ("http://farm9.staticflickr.com/8/1_a.jpg", "https://live.staticflickr.com/8/1_a.jpg"),
        ("https://farm1.static.flickr.com/8/1_a.jpg?x", "https://live.staticflickr.com/8/1_a.jpg?x"),
        ("https://live.staticflickr.com/8/1_a.jpg", None),
        ("http://h/?http://farm9.staticflickr.com/8/1_a.jpg", None),
    ],
)
def test_the_beginning_of_a_url_is_replaced(url, rewritten):
    assert rewrite(url, [FLICKR]) == rewritten


def test_the_first_matching_rule_applies():
    rules = [Rewrite("http://(a|b)/", r"http://\1.example/"), Rewrite("http://", "https://")]
    assert rewrite("http://b/x", rules) == "http://b.example/x"
    assert rewrite("http://c/x", rules) == "https://c/x"
    assert rewrite("http://c/x", []) is None


@pytest.mark.parametrize("replace", ["ftp://h/", "file:///", "", "http://[", "http://a/"])
def test_a_result_that_is_no_other_web_url_is_none(replace):
    assert rewrite("http://a/x", [Rewrite("http://a/", replace)]) is None


@pytest.mark.parametrize(("match", "replace"), [("(a", "b"), ("a", r"\1"), ("a", r"\g<x>"), ("a", "\\"), ("*", "")])
def test_an_invalid_rule_is_reported_in_one_line(match, replace):
    fault = Rewrite(match, replace).find_error()
    assert repr(match) in fault
    assert "\n" not in fault
    assert FLICKR.find_error() is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/", True),
        ("https://h:1", True),
        ("ftp://h/", False),
        ("http:///a", False),
        ("http://[", False),
        ("/etc/passwd", False),
        ("", False),
    ],
)
def test_web_urls(url, expected):
    assert is_web_url(url) is expected
