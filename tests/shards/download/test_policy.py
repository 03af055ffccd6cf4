import pytest

from shards.download.aria2_log import RequestTrace
from shards.download.policy import find_refused_redirect


def fault_of(*redirects: str, host: str = "pictures.example.com", allow_private: bool = False, **addresses) -> str:
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
def test_a_private_address_of_another_host_is_a_fault_unless_allowed(url):
    assert "no public address" in fault_of(url)
    assert "no public address" in fault_of("http://other.example.com/", url, "https://example.org/a")
    assert not fault_of(url, allow_private=True)


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/a", "https://example.org/a", "http://[2606:4700::1]/a", "http://0x08080808/"]
)
def test_a_public_address_is_none(url):
    assert not fault_of(url)


def test_a_redirect_within_a_private_host_is_none():
    assert not fault_of("http://10.0.0.1:81/b", "https://10.0.0.1/c", host="10.0.0.1")
    assert fault_of("http://10.0.0.2/b", host="10.0.0.1")


def test_a_name_is_judged_by_the_addresses_that_were_found():
    assert not fault_of("http://other.example.com/", **{"other.example.com": ["93.184.216.34"]})
    told = fault_of("http://other.example.com/", **{"other.example.com": ["93.184.216.34", "10.0.0.7"]})
    assert told.startswith("redirects to other.example.com, which is 10.0.0.7:")
    assert not fault_of("http://other.example.com/", **{"third.example.com": ["10.0.0.7"]})


@pytest.mark.parametrize("url", ["ftp://example.org/a", "sftp://example.org/a", "file:///etc/passwd", "magnet:?x", "x"])
def test_another_scheme_is_a_fault_whatever_is_allowed(url):
    assert "neither http nor https" in fault_of(url, allow_private=True)


def test_what_is_no_url_is_a_fault():
    assert "no URL" in fault_of("http://[::1/a")
