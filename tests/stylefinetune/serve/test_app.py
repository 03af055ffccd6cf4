import json
from importlib.resources import files

import pytest

from stylefinetune.evaluate import evaluate
from stylefinetune.serve.access import Access
from stylefinetune.serve.gallery import Gallery
from tests.browser import CHROMIUM, open_browser
from tests.loopback import Answer
from tests.stylefinetune.serve.conftest import running

TOKEN = "a-token-of-a-test-1234"
AXE = "axe.run().then(found => found.violations.map(rule => `${rule.id}: ${rule.nodes[0].html}`))"

pytestmark = pytest.mark.xdist_group("serve")  # with the other tests of a trained run


@pytest.fixture(scope="module")
def gallery(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    evaluate([str(trained), "--workers=0", f"--out={out}"])
    return Gallery.open(out, "softmax")


def test_without_predictions_the_page_says_what_to_run(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert (
        "There are no predictions of a test set. Write them with <code>stylefinetune evaluate RUN</code>" in page.text
    )
    assert "mine &lt;b&gt;" in page.text
    assert "<b>" not in page.text
    for path in ("/api/test_set", "/api/test_set/pictures", "/api/test_set/pictures/0"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "stylefinetune evaluate RUN writes them" in answer.json()["error"]


def test_predictions_of_another_checkpoint_are_named(open_client, gallery):
    page = open_client(gallery=gallery).get("/").text
    assert "This is another checkpoint than the one above" in page
    assert "11 pictures of split test" in page


def test_the_style_is_that_of_the_runs_page(client):
    style = client.get("/serve.css").text
    assert style.startswith((files("stylefinetune.run_report") / "templates" / "runs.css").read_text(encoding="utf-8"))
    assert client.get("/serve.js").headers["content-type"].startswith("text/javascript")


def test_the_model_is_described(client):
    found = client.get("/api/model").json()
    assert (found["checkpoint"], found["classes"]) == ("runs/mine", ["Noir", "Bokeh", "Hazy"])
    assert (found["api_version"], found["max_pixels"], found["url_fetch"]) == (1, 50_000_000, True)


def test_too_many_requests_of_a_client(open_client, picture):
    client = open_client(rate=0.001)
    answers = [client.post("/api/predict", content=picture) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) > 100
    assert client.post("/api/predict_url", json={"url": "http://a"}).status_code == 429
    assert client.post("/login").status_code == 429
    assert client.get("/api/model").status_code == 200


def _try_link(client, token):
    return client.get(f"/?token={token}").status_code


def _try_form(client, token):
    return client.post("/login", data={"token": token}).status_code


def _try_header(client, token):
    return client.get("/api/model", headers={"Authorization": f"Bearer {token}"}).status_code


def _try_header_of_the_page(client, token):
    return client.get("/", headers={"Authorization": f"Bearer {token}"}).status_code


def _try_cookie(client, token):
    cookies = Access([], token, 0)
    cookie = f"{cookies._cookie_name}={cookies._derive('session')}"
    return client.get("/api/model", headers={"Cookie": cookie}).status_code


_WAYS = [_try_link, _try_form, _try_header, _try_header_of_the_page, _try_cookie]


@pytest.mark.parametrize("way", _WAYS)
def test_wrong_tokens_are_counted_together_however_they_are_sent(open_client, way):
    client = open_client(rate=0.001, token=TOKEN)
    assert [way(client, "wrong") for _ in range(10)] == [401] * 10
    assert [other(client, TOKEN) for other in _WAYS] == [429] * len(_WAYS)
    answer = client.get("/api/model", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.json()["error"].startswith("more than 0.001 wrong tokens a second; try again in ")
    assert int(answer.headers["retry-after"]) > 100
    assert client.get("/").status_code == 401  # the form


@pytest.mark.parametrize("way", [_try_link, _try_header, _try_cookie])
def test_right_tokens_and_requests_without_one_are_not_counted(open_client, way):
    client = open_client(rate=0.001, token=TOKEN)
    assert {client.get("/api/model").status_code for _ in range(20)} == {401}
    assert {way(client, TOKEN) for _ in range(20)} <= {200, 303}


def test_pictures_of_the_test_set(open_client, gallery):
    client = open_client(gallery=gallery)
    picture = client.get("/api/test_set/pictures/3?side=40")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == gallery.picture(3, 40)
    for path, status in (
        ("3?side=0", 400),
        ("3?side=9999", 400),
        ("99", 404),
        ("-1", 404),
        ("x", 404),
        ("9" * 5000, 404),
    ):
        assert client.get(f"/api/test_set/pictures/{path}").status_code == status
    found = client.get("/api/test_set/pictures?show=correct&order=least_sure&predicted=1&first=1").json()
    assert found == gallery.find("correct", None, 1, 1, 48, least_sure=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_browser(open_app, gallery, server, picture, tmp_path):
    """Only a browser applies the policy of the page, and knows whether it can be read and used."""
    (tmp_path / "a picture.jpg").write_bytes(picture)
    (tmp_path / "text.txt").write_text("no picture")
    url_of_picture = server.add("/far.jpg", Answer(picture))
    app = open_app(gallery=gallery, allow_private=True)
    with running(app) as url, open_browser(tmp_path / "profile") as browser:
        for width, scheme in ((1280, "light"), (360, "dark")):
            browser.show(f"{url}/", width, 2000, scheme)
            browser.wait("document.querySelectorAll('#pictures img').length", lambda count: count > 0)
            _drop(browser, tmp_path / "a picture.jpg")
            _wait_for(browser, "a picture.jpg")
            assert browser.messages == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            browser.evaluate(_axe() + ";0")
            assert browser.evaluate(AXE, wait=True) == []
        shown = (
            "[...document.querySelectorAll('.result')[0].querySelectorAll('.classes li')].map(item => item.innerText)"
        )
        assert len(browser.evaluate(shown)) == 3
        assert browser.evaluate("document.querySelector('.result img').naturalWidth") == 90
        widths = browser.evaluate("[...document.querySelectorAll('.result .bar')].map(bar => bar.offsetWidth)")
        assert widths[0] >= widths[1] >= widths[2] > 0
        assert all(request.startswith((url, "blob:")) for request in browser.requests)
        _choose(browser, tmp_path / "text.txt")
        _wait_for(browser, "this is not a JPEG, PNG, GIF, WebP or BMP: begins with b'no picture'")
        _paste_text(browser, url_of_picture)
        _wait_for(browser, "far.jpg")
        assert browser.evaluate("document.querySelector('.result img').src.startsWith('data:image/jpeg')")
        _browse(browser, gallery)
        with running(open_app(token=TOKEN)) as locked:
            _log_in(browser, locked)


def _axe():
    return (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


def _wait_for(browser, text):
    browser.wait("document.getElementById('status').textContent", lambda found: text in found)


def _drop(browser, path):
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.call("Input.dispatchDragEvent", type=kind, x=100, y=200, data=data)


def _choose(browser, path):
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    files_input = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=files_input, files=[str(path)])


def _paste_text(browser, text):
    browser.evaluate(
        "{const data = new DataTransfer(); data.setData('text/plain', " + json.dumps(text) + "); "
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))}"
    )


def _log_in(browser, url):
    """Open a server that needs a token, without the link that it has printed."""
    browser.show(f"{url}/", 360, 800, "dark")
    browser.evaluate(_axe() + ";0")
    assert browser.evaluate(AXE, wait=True) == []
    assert browser.evaluate("document.activeElement.id") == "token"
    browser.call("Input.insertText", text=TOKEN)
    for kind in ("rawKeyDown", "char", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", windowsVirtualKeyCode=13)
    browser.wait("document.getElementById('drop') !== null", bool)
    assert browser.evaluate("fetch('/api/model').then(answer => answer.status)", wait=True) == 200
    assert browser.evaluate("document.cookie") == ""  # scripts can't read it


def _browse(browser, gallery):
    """Choose classes of the test set, and open a picture."""
    truth = gallery.find("all", None, None, 0, 1, least_sure=False)["pictures"][0]["true"][0]
    label = gallery.classes.index(truth)
    browser.evaluate(
        f"find('show').value = 'all'; find('true').value = '{label}'; "
        "find('filter').dispatchEvent(new Event('change')); 0"
    )
    expected = gallery.find("all", label, None, 0, 48, least_sure=False)["found"]
    browser.wait("find('found').textContent", lambda text: text == f"{expected} of {expected} pictures")
    texts = browser.evaluate("[...document.querySelectorAll('#pictures button')].map(button => button.innerText)")
    assert len(texts) == expected
    assert all(truth in text for text in texts)
    browser.evaluate("document.querySelector('#pictures button').click()")
    assert browser.evaluate("find('detail').open")
    assert truth in browser.evaluate("find('detail-title').textContent")
    browser.wait("document.querySelector('#detail img').naturalWidth", lambda width: width > 0)
    assert browser.evaluate("document.querySelectorAll('#detail .classes li').length") == 4
    assert browser.evaluate(AXE, wait=True) == []
