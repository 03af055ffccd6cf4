import pytest

from shards.config.schema import AssembleConfig
from shards.download.proxies import Proxies
from shards.errors import ShardsError


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Read the proxies from an environment that has only the given variables."""

    def run(config_proxy: str | None = None, **environment: str) -> Proxies:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Proxies.read(AssembleConfig(list="x", out=tmp_path, proxy=config_proxy))

    return run


def test_the_proxy_is_chosen_by_the_scheme(read):
    proxies = read(http_proxy="http://a:1", ALL_PROXY="b:2")
    assert proxies.find("http://h/x") == "http://a:1"
    assert proxies.find("https://h/x") == "http://b:2"
    assert proxies.first_address() == "a:1"


def test_the_configured_proxy_comes_before_the_environment(read):
    proxies = read("http://me:secret@c:3", http_proxy="http://a:1", no_proxy="*")
    assert proxies.find("http://h/x") == "http://me:secret@c:3"
    assert proxies.first_address() == "c:3"


@pytest.mark.parametrize("no_proxy", ["*", "a, *", " * "])
def test_a_star_in_no_proxy_means_no_proxy_at_all(read, no_proxy):
    proxies = read(http_proxy="http://a:1", ALL_PROXY="socks5://b:2", no_proxy=no_proxy)
    assert proxies.find("http://h/x") is None
    assert proxies.aria2_options() == {}
    assert proxies.warning() is None


@pytest.mark.parametrize(
    ("host", "is_direct"),
    [("h.org", True), ("a.h.org", True), ("xh.org", False), ("10.1.2.3", True), ("11.1.2.3", False), ("p.org", True)],
)
def test_no_proxy_covers_hosts_their_subdomains_and_networks(read, host, is_direct):
    proxies = read(http_proxy="http://a:1", no_proxy="h.org, 10.0.0.0/8 ,.p.org")
    assert (proxies.find(f"http://{host}/x") is None) == is_direct
    assert proxies.aria2_options()["no-proxy"] == "h.org,10.0.0.0/8,.p.org,.h.org"


@pytest.mark.parametrize("proxy", ["socks5://me:secret@b:2", "socks5h://b:2", "https://b:2"])
def test_a_proxy_of_another_kind_is_an_error_only_where_it_is_needed(read, proxy):
    proxies = read(http_proxy="http://a:1", ALL_PROXY=proxy, no_proxy="direct.org")
    assert proxies.find("http://h/x") == "http://a:1"
    assert proxies.find("https://direct.org/x") is None
    with pytest.raises(ShardsError, match=r"ALL_PROXY is .*://b:2; .*--proxy") as found:
        proxies.find("https://h/x")
    assert "secret" not in str(found.value)
    assert "secret" not in proxies.warning()
    assert proxies.aria2_options() == {"http-proxy": "http://a:1", "no-proxy": "direct.org,.direct.org"}


def test_the_variable_is_named_as_it_is_written(read):
    assert read(all_proxy="socks5://b:2").warning().startswith("all_proxy is socks5://b:2")
    assert read(HTTPS_PROXY="socks5://b:2").warning().startswith("HTTPS_PROXY is socks5://b:2")


def test_a_password_is_never_shown(read):
    proxies = read(ALL_PROXY="socks5://bob:se://c:ret@b:2")
    assert "ALL_PROXY is socks5://b:2" in proxies.warning()


def test_the_scheme_and_no_proxy_may_have_upper_case(read):
    proxies = read(http_proxy="HTTP://a:1", no_proxy="LOCALHOST")
    assert proxies.find("http://h/x") == "http://a:1"
    assert proxies.find("http://localhost/x") is None
    assert proxies.aria2_options() == {"http-proxy": "http://a:1", "no-proxy": "localhost,.localhost"}


@pytest.mark.parametrize("proxy", ["http://me:secret@a:xx", "http://a:99999", "a:1/path", "nonsense::", "a:1\nlog=/x"])
def test_a_variable_that_is_no_proxy_is_named(read, proxy):
    with pytest.raises(ShardsError, match=r"^https_proxy is '.*'; it must look like http://host:8080") as found:
        read(https_proxy=proxy)
    assert "secret" not in str(found.value)
    assert "\n" not in str(found.value)
