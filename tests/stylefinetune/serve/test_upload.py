import asyncio
import json

import pytest

from stylefinetune.serve.settings import Settings
from stylefinetune.serve.upload import Uploads

FORM = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n%b\r\n--x--\r\n'
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


def error_of(answer):
    return answer.status_code, answer.json()["error"]


def test_a_picture_is_the_body_or_a_file_of_a_form(client, picture):
    plain = client.post("/api/predict", content=picture).json()
    form = client.post("/api/predict", files={"any": ("é.jpg", picture)}, data={"note": "text"}).json()
    assert (plain["picture"], form["picture"]) == (None, "é.jpg")
    assert plain["classes"] == form["classes"]


@pytest.mark.parametrize("charset", ["utf-16", "unicode_escape", "punycode", "idna", "zip", "nonsense"])
@pytest.mark.parametrize("name", [rb"\ud800", b"a\xff-9999", b"\xed\xa0\x80"])
def test_a_name_in_an_odd_encoding(client, picture, name, charset):
    headers = {"Content-Type": f"{MULTIPART['Content-Type']}; charset={charset}"}
    answer = client.post("/api/predict", content=FORM.replace(b"a.jpg", name) % picture, headers=headers)
    assert answer.status_code in {200, 400}


def test_bodies_without_a_picture(client):
    assert error_of(client.post("/api/predict"))[0] == 400
    assert error_of(client.post("/api/predict", data={"a": "b"}, headers=MULTIPART))[0] == 400
    assert error_of(
        client.post("/api/predict", content=FORM.replace(b'; filename="a.jpg"', b""), headers=MULTIPART)
    ) == (
        400,
        "the form has no file",
    )
    assert error_of(client.post("/api/predict", content=FORM[:60], headers=MULTIPART))[0] == 400
    assert error_of(client.post("/api/predict", files={"a": b"abc", "b": b"abc"}))[0] == 400


def test_large_bodies_are_refused_before_and_while_they_are_read(open_client):
    client = open_client(max_bytes=1000)
    message = "the request has more than 1,000 bytes"
    assert error_of(client.post("/api/predict", content=bytes(1001))) == (413, message)
    sent = []

    def endless():
        while len(sent) < 1000:
            sent.append(100)
            yield bytes(100)

    assert error_of(client.post("/api/predict", content=endless())) == (413, message)
    form = client.post("/api/predict", content=FORM % bytes(100_000), headers=MULTIPART)
    assert error_of(form) == (413, message)
    assert client.post("/api/predict", content=bytes(1000)).status_code == 415


def test_json_must_be_a_small_object(client):
    def ask(body, kind="application/json"):
        return error_of(client.post("/api/predict_url", content=body, headers={"Content-Type": kind}))

    assert ask(b"{}", "text/plain") == (415, "Content-Type must be application/json")
    assert ask(b"[]") == (400, "the body is not a JSON object")
    assert ask(b"{") == ask(b"\xff") == ask(b"[" * 50_000) == (400, "the body is not JSON")
    assert ask(rb'{"url": "http://\ud800/"}') == ask(rb'{"\udfff": 1}') == (400, "the body is not JSON")
    assert ask(b" " * 70_000)[0] == 413
    assert ask(json.dumps({"url": 5}).encode())[0] == 400


class Body:
    """The body of a request, message by message."""

    def __init__(self, *parts, ends=True):
        self._messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if ends:
            self._messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def __call__(self):
        return self._messages.pop(0) if self._messages else await asyncio.Event().wait()

    def request(self):
        from starlette.requests import Request

        return Request({"type": "http", "method": "POST", "headers": [], "path": "/"}, self)


async def read(uploads, body, work=lambda: asyncio.sleep(0)):
    async with uploads.read_picture(body.request()) as (_, found):
        await work()
        return found


def test_a_body_must_be_complete_in_time():
    from stylefinetune.serve.errors import ApiError

    with pytest.raises(ApiError, match=r"not complete within 0.05 s") as raised:
        asyncio.run(read(Uploads(Settings(timeout=0.05)), Body(b"abc", ends=False)))
    assert raised.value.status == 408


def test_a_connection_that_breaks_off():
    from stylefinetune.serve.errors import ApiError

    body = Body(b"abc", ends=False)
    body._messages.append({"type": "http.disconnect"})
    with pytest.raises(ApiError, match="the connection broke off"):
        asyncio.run(read(Uploads(Settings()), body))


def test_the_memory_of_all_bodies_is_limited_and_given_back():
    from stylefinetune.serve.errors import ApiError

    uploads = Uploads(Settings(max_bytes=100))

    async def check():
        is_done = asyncio.Event()
        held = [asyncio.create_task(read(uploads, Body(bytes(100)), is_done.wait)) for _ in range(16)]
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError, match="too many large pictures") as raised:
            await read(uploads, Body(b"a"))
        assert raised.value.status == 503
        is_done.set()
        await asyncio.gather(*held)
        assert await read(uploads, Body(b"a")) == b"a"
        assert uploads._used == 0

    asyncio.run(check())
