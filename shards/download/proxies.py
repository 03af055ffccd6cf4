"""Chooses the proxy for a URL by the config and the environment's proxy variables."""

import dataclasses
import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit

from requests.utils import should_bypass_proxies

from shards.config.schema import AssembleConfig, is_proxy
from shards.errors import ShardsError

_FORM = "it must look like http://host:8080 or http://user:password@host:8080"
_REMEDY = "aria2 supports http proxies only; unset the variable, or give --proxy http://host:port"


@dataclasses.dataclass(frozen=True)
class Proxies:
    """The proxies of a download: one for each scheme, and the hosts that are reached without one."""

    by_scheme: dict[str, str]  # "http", "https" or "all": the proxy's URL
    no_proxy: str = ""  # hosts, domains and networks, separated by commas

    @classmethod
    def read(cls, config: AssembleConfig) -> "Proxies":
        """Return `--proxy`, or the environment's proxies as curl and requests read them.

        Raises:
            ShardsError: a variable is not a proxy.
        """
        if config.proxy:
            return cls({"all": config.proxy})
        found = urllib.request.getproxies_environment()
        no_proxy = found.get("no", "")
        if "*" in (entry.strip() for entry in no_proxy.split(",")):
            return cls({})
        by_scheme = {name: found[name] for name in ("http", "https", "all") if found.get(name)}
        for name, proxy in by_scheme.items():
            if _is_supported(proxy) and not (is_proxy(_http_url(proxy)) and proxy.isprintable()):
                raise ShardsError(f"{_variable(name)} is {_without_password(proxy)!r}; {_FORM}")
        return cls(by_scheme, no_proxy.lower())

    def aria2_options(self) -> dict[str, str]:
        """Return aria2's options for them; a name in no_proxy covers its subdomains, which aria2 wants said."""
        options = {f"{name}-proxy": _http_url(proxy) for name, proxy in self.by_scheme.items() if _is_supported(proxy)}
        if self.no_proxy:
            entries = [entry.strip() for entry in self.no_proxy.split(",") if entry.strip()]
            domains = [f".{entry}" for entry in entries if not entry.startswith(".") and not _is_network(entry)]
            options["no-proxy"] = ",".join([*entries, *domains])
        return options

    def first_address(self) -> str | None:
        """Return the first proxy that aria2 uses, without its user and password, or None."""
        found = next((proxy for proxy in self.by_scheme.values() if _is_supported(proxy)), None)
        return _http_url(found).rpartition("@")[2].removeprefix("http://") if found else None

    def find(self, url: str) -> str | None:
        """Return the URL of the proxy for a URL, or None.

        Raises:
            ShardsError: it is of a kind that aria2 doesn't support, such as SOCKS.
        """
        if not self.by_scheme:
            return None
        scheme = urlsplit(url).scheme
        name = scheme if scheme in self.by_scheme else "all"
        proxy = self.by_scheme.get(name)
        if proxy is None or (self.no_proxy and should_bypass_proxies(url, no_proxy=self.no_proxy)):
            return None
        if not _is_supported(proxy):
            raise ShardsError(f"{_variable(name)} is {_without_password(proxy)}; {_REMEDY}")
        return _http_url(proxy)

    def warning(self) -> str | None:
        """Return a warning about a proxy variable that aria2 doesn't support, or None."""
        for name, proxy in self.by_scheme.items():
            if not _is_supported(proxy):
                shown = _without_password(proxy)
                return f"{_variable(name)} is {shown}; aria2 supports http proxies only and ignores it"
        return None


def _split(proxy: str) -> tuple[str, str]:
    """Return the scheme of a proxy, http if it has none, and the rest."""
    scheme, separator, rest = proxy.partition("://")
    return (scheme.lower(), rest) if separator else ("http", proxy)


def _is_supported(proxy: str) -> bool:
    return _split(proxy)[0] == "http"


def _http_url(proxy: str) -> str:
    return f"http://{_split(proxy)[1]}"


def _without_password(proxy: str) -> str:
    scheme, rest = _split(proxy)
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _variable(name: str) -> str:
    lower, upper = f"{name}_proxy", f"{name}_proxy".upper()
    return lower if os.environ.get(lower) else upper


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry.partition(":")[0], strict=False)
    except ValueError:
        return False
    return True
