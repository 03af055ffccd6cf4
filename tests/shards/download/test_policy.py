import pytest

from shards.config.schema import AssembleConfig
from shards.download.aria2_log import RequestTrace
from shards.download.policy import find_disallowed_directive, find_refused_redirect

DISALLOWED = AssembleConfig(list="a", out="b").disallowed_header_directives


def refusal_of(*redirects: str, host: str = "pictures.example.com", allow_private: bool = False, **addresses) -> str:
    trace = RequestTrace(host=host, redirects=list(redirects), addresses={"other.example.com": [], **addresses})
    return find_refused_redirect(trace, allow_private=allow_private) or ""


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a",
        "http://127.0.0.1:8080/a",
        "http://me@127.0.0.2/a",
        "http://localhost/a",
        "http://a.localhost/a",
        "http://LOCALHOST/a",
        "http://0/a",
        "http://127.1/a",
        "http://2130706433/a",
        "http://0x7f000001/a",
        "http://017700000001/a",
        "http://10.1.2.3/a",
        "http://172.16.0.1/a",
        "https://192.168.1.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/a",
        "http://[::1]/a",
        "http://[fe80::1]/a",
        "http://[fd00::1]/a",
        "http://[::ffff:127.0.0.1]/a",
    ],
)
def test_a_redirect_to_a_private_address_is_refused_unless_allowed(url):
    assert "not a public address" in refusal_of(url)
    assert "not a public address" in refusal_of("http://other.example.com/", url, "https://example.org/a")
    assert not refusal_of(url, allow_private=True)


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/a", "https://example.org/a", "http://[2606:4700::1]/a", "http://0x08080808/"]
)
def test_a_redirect_to_a_public_address_is_allowed(url):
    assert not refusal_of(url)


def test_a_redirect_within_a_private_host_is_allowed():
    assert not refusal_of("http://10.0.0.1:81/b", "https://10.0.0.1/c", host="10.0.0.1")
    assert refusal_of("http://10.0.0.2/b", host="10.0.0.1")


def test_a_host_name_is_checked_by_its_resolved_addresses():
    assert not refusal_of("http://other.example.com/", **{"other.example.com": ["93.184.216.34"]})
    refusal = refusal_of("http://other.example.com/", **{"other.example.com": ["93.184.216.34", "10.0.0.7"]})
    assert refusal.startswith("redirects to other.example.com, which is 10.0.0.7:")
    assert not refusal_of("http://other.example.com/", **{"third.example.com": ["10.0.0.7"]})


@pytest.mark.parametrize("url", ["ftp://example.org/a", "sftp://example.org/a", "file:///etc/passwd", "magnet:?x", "x"])
def test_a_redirect_to_another_scheme_is_always_refused(url):
    assert "neither http nor https" in refusal_of(url, allow_private=True)


def test_a_redirect_to_an_invalid_url_is_refused():
    assert "not a valid URL" in refusal_of("http://[::1/a")


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        ([], None),
        (["all"], None),
        (["noai"], "noai"),
        ([" NoAI , noimageai"], "noai"),
        (["nofollow, noimageindex"], "noimageindex"),
        (["nofollow", "noindex"], "noindex"),
        (["none"], "none"),  # noindex, nofollow
        (["noaim"], None),
        (["googlebot: noindex"], None),
        (["googlebot: noindex, nofollow, noai"], None),
        (["googlebot: nofollow, *: noai"], "noai"),
        (["stylefinetune: noai"], "noai"),
        (["StyleFineTune : noai"], "noai"),
        (["otherbot: noindex, stylefinetune: nofollow"], None),
        (["max-snippet: 0, noindex"], "noindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["googlebot: max-snippet: 0, noai"], None),
        (["", ":", ",,"], None),
    ],
)
def test_directives_for_every_robot_or_for_ours_are_found(headers, directive):
    assert find_disallowed_directive(headers, DISALLOWED) == directive


def test_the_disallowed_directives_can_be_configured():
    assert find_disallowed_directive(["noindex, noai"], {"noai"}) == "noai"
    assert find_disallowed_directive(["none"], {"noai"}) is None
    assert find_disallowed_directive(["noindex, noai"], ()) is None
