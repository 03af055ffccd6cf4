import http.client
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from launch import sample
from tests.forward_proxy import PLACEHOLDER, Fate, ForwardProxy, fate_of

URLS = [f"http://farm{number % 9}.staticflickr.com/1227/{number}_124c1e63d8.jpg" for number in range(300)]
LABELS = {url: number % 20 for number, url in enumerate(URLS)}


def one_of(fate):
    return next(url for url in URLS if fate_of(url) is fate)


@pytest.fixture
def proxy():
    with ForwardProxy(LABELS) as proxy:
        yield proxy


@pytest.fixture
def get(proxy):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url}))
    return lambda url: opener.open(url, timeout=10)


def test_most_urls_live_and_every_fate_occurs():
    fates = [fate_of(url) for url in URLS]
    assert set(fates) == set(Fate)
    assert 0.8 < fates.count(Fate.ALIVE) / len(fates) < 1


def test_a_url_of_any_host_is_the_picture_of_its_label_each_time(get):
    url = one_of(Fate.ALIVE)
    with get(url) as first, get(url) as second:
        body = first.read()
        assert body == second.read()
        assert first.headers["Content-Type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) >= 200


def test_pictures_follow_their_labels(get):
    noir = [url for url in URLS if LABELS[url] == sample.style_names.index("Noir") and fate_of(url) is Fate.ALIVE]
    for url in noir[:3]:
        with get(url) as response:
            picture = cv2.imdecode(np.frombuffer(response.read(), np.uint8), cv2.IMREAD_COLOR)
        assert np.ptp(picture.astype(int), axis=2).max() < 8, "noir is black and white"


@pytest.mark.parametrize("url", [one_of(Fate.MISSING), "http://elsewhere.example/a.jpg"])
def test_dead_and_unknown_urls_are_404(get, url):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(url)


def test_an_unavailable_photo_redirects_to_the_placeholder(proxy, get):
    with get(one_of(Fate.UNAVAILABLE)) as response:
        assert response.url == PLACEHOLDER
        assert response.read().startswith(b"\x89PNG")
    assert proxy.asked[PLACEHOLDER] == 1


def test_a_500_heals(proxy, get):
    url = one_of(Fate.HEALS_AFTER_500)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        get(url)
    with get(url) as response:
        assert response.status == 200
    assert proxy.asked[url] == 2


def test_a_reset_heals(get):
    url = one_of(Fate.HEALS_AFTER_RESET)
    with pytest.raises((ConnectionError, http.client.IncompleteRead)), get(url) as response:
        response.read()
    with get(url) as response:
        assert len(response.read()) == int(response.headers["Content-Length"])


def test_connect_is_refused(proxy):
    with socket.create_connection((urlsplit(proxy.url).hostname, urlsplit(proxy.url).port), timeout=10) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        status = connection.makefile("rb").readline().split()[1]
    assert status.startswith((b"4", b"5"))
