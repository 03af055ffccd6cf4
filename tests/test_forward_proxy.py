import http.client
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from launch import sample
from tests.forward_proxy import PLACEHOLDER, ForwardProxy, UrlState, url_state

URLS = [f"http://farm{number % 9}.staticflickr.com/1227/{number}_124c1e63d8.jpg" for number in range(300)]
LABELS = {url: number % 20 for number, url in enumerate(URLS)}


def find_url(state):
    return next(url for url in URLS if url_state(url) is state)


@pytest.fixture
def proxy():
    with ForwardProxy(LABELS) as proxy:
        yield proxy


@pytest.fixture
def get(proxy):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url}))
    return lambda url: opener.open(url, timeout=10)


def test_most_urls_are_alive_and_every_state_occurs():
    states = [url_state(url) for url in URLS]
    assert set(states) == set(UrlState)
    assert 0.8 < states.count(UrlState.ALIVE) / len(states) < 1


def test_each_request_for_a_url_returns_the_same_picture(get):
    url = find_url(UrlState.ALIVE)
    with get(url) as first, get(url) as second:
        body = first.read()
        assert body == second.read()
        assert first.headers["Content-Type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) >= 200


def test_a_picture_has_the_style_of_its_label(get):
    noir = [url for url in URLS if LABELS[url] == sample.style_names.index("Noir") and url_state(url) is UrlState.ALIVE]
    for url in noir[:3]:
        with get(url) as response:
            picture = cv2.imdecode(np.frombuffer(response.read(), np.uint8), cv2.IMREAD_COLOR)
        assert np.ptp(picture.astype(int), axis=2).max() < 8, "noir is black and white"


@pytest.mark.parametrize("url", [find_url(UrlState.MISSING), "http://elsewhere.example/a.jpg"])
def test_dead_and_unknown_urls_are_404(get, url):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(url)


def test_an_unavailable_photo_redirects_to_the_placeholder(proxy, get):
    with get(find_url(UrlState.UNAVAILABLE)) as response:
        assert response.url == PLACEHOLDER
        assert response.read().startswith(b"\x89PNG")
    assert proxy.counts[PLACEHOLDER] == 1


def test_a_url_recovers_after_a_500(proxy, get):
    url = find_url(UrlState.RECOVERS_AFTER_500)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        get(url)
    with get(url) as response:
        assert response.status == 200
    assert proxy.counts[url] == 2


def test_a_url_recovers_after_a_reset(get):
    url = find_url(UrlState.RECOVERS_AFTER_RESET)
    with pytest.raises((ConnectionError, http.client.IncompleteRead)), get(url) as response:
        response.read()
    with get(url) as response:
        assert len(response.read()) == int(response.headers["Content-Length"])


def test_connect_is_refused(proxy):
    with socket.create_connection((urlsplit(proxy.url).hostname, urlsplit(proxy.url).port), timeout=10) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        status = connection.makefile("rb").readline().split()[1]
    assert status.startswith((b"4", b"5"))
