import asyncio
import contextlib
import http.client
import socket
import threading
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from stylefinetune.errors import UserError
from stylefinetune.serve import server
from stylefinetune.serve.server import open_socket
from tests.stylefinetune.serve.conftest import running

REQUEST = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


async def echo(request):
    return PlainTextResponse(await request.body())


@pytest.fixture
def be_impatient(monkeypatch):
    """Give up clients soon; until then, no request may fail because this machine is slow."""
    for name in ("_HEADER_SECONDS", "_REQUEST_SECONDS"):
        monkeypatch.setattr(server, name, 60)
    return lambda name: monkeypatch.setattr(server, name, 0.2)


@pytest.fixture
def address(be_impatient):
    async def refuse(_):
        be_impatient("_HEADER_SECONDS")  # for what follows this request
        return PlainTextResponse("no", 413)

    async def work(_):
        await asyncio.sleep(1)
        return PlainTextResponse("done")

    routes = [Route("/echo", echo, methods=["POST"]), Route("/refuse", refuse, methods=["POST"]), Route("/work", work)]
    with running(Starlette(routes=routes)) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def send_slowly(address, *parts):
    """Send the parts, then a byte at a time until the server closes the connection; return what it has answered."""
    with socket.create_connection(address, timeout=60) as client:
        for part in parts:
            client.sendall(part)
        deadline = time.monotonic() + 60
        answer = b""
        client.settimeout(0.05)
        while time.monotonic() < deadline:
            try:
                client.sendall(b"x")
                received = client.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                return answer
            if not received:
                return answer
            answer += received
    raise AssertionError("the connection is still open")


def test_a_header_that_never_ends_is_given_up(address, be_impatient):
    be_impatient("_HEADER_SECONDS")
    assert send_slowly(address, b"POST /echo HTTP/1.1\r\nHost: a\r\nX: ") == b""
    assert send_slowly(address) == b""


def test_a_second_request_has_the_same_time(address):
    request = REQUEST.replace(b"echo", b"refuse") + b"abc"
    assert send_slowly(address, request, b"GET / HTTP/1.1\r\nX: ").startswith(b"HTTP/1.1 413 ")


def test_a_body_that_never_ends_is_given_up(address, be_impatient):
    be_impatient("_REQUEST_SECONDS")
    assert send_slowly(address, REQUEST.replace(b": 3", b": 300000")) == b""


def test_the_rest_of_a_refused_body_is_not_awaited(address):
    answer = send_slowly(address, REQUEST.replace(b": 3", b": 300000").replace(b"echo", b"refuse"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_request_that_is_sent_before_the_last_answer_has_the_time_of_a_request(address):
    following = b"GET /work HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(REQUEST.replace(b"echo", b"refuse") + b"abc" + following)
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"done")


def test_slow_clients_dont_stop_others(address):
    slow = [socket.create_connection(address) for _ in range(50)]
    for client in slow:
        client.sendall(b"POST /echo HTTP/1.1\r\n")
    connection = http.client.HTTPConnection(*address, timeout=60)
    for _ in range(3):
        connection.request("POST", "/echo", b"abc")
        assert connection.getresponse().read() == b"abc"
    connection.close()
    for client in slow:
        client.close()


def test_connections_are_limited(address, monkeypatch):
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 2)
    held = [socket.create_connection(address) for _ in range(2)]
    for client in held:  # both are accepted
        client.sendall(REQUEST + b"abc")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    with socket.create_connection(address, timeout=60) as refused, contextlib.suppress(ConnectionResetError):
        assert refused.recv(1) == b""
    for client in held:
        client.close()


def test_requests_in_progress_are_finished_when_the_server_stops():
    has_begun, goes_on = threading.Event(), threading.Event()

    def wait(_):  # in a thread of Starlette
        has_begun.set()
        goes_on.wait(60)
        return PlainTextResponse("done")

    with running(Starlette(routes=[Route("/", wait)])) as url:
        connection = http.client.HTTPConnection(url.partition("//")[2], timeout=60)
        connection.request("GET", "/")
        assert has_begun.wait(60)
        threading.Timer(0.3, goes_on.set).start()
    assert connection.getresponse().read() == b"done"
    connection.close()


def test_a_request_that_doesnt_end_is_answered_when_the_server_stops(open_app, monkeypatch, caplog):
    monkeypatch.setattr(server, "_STOP_SECONDS", 0.2)
    with running(open_app()) as url:
        client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60)
        client.sendall(
            b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")  # the body is awaited
    answer = b"".join(iter(lambda: client.recv(1000), b""))
    client.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b'{"error":"the server stops"}')
    assert not any(record.exc_info for record in caplog.records)


def test_an_answer_is_sent_without_waiting_for_the_client():
    """Otherwise the body of each answer is sent 40 ms after its head, when the client's system confirms the head."""
    with open_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_any_free_port_and_names():
    with open_socket("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        port = listener.getsockname()[1]
        assert port > 0
        with pytest.raises(
            UserError, match=rf"127.0.0.1:{port} can't be listened to \(Address already in use\); give another --port"
        ):
            open_socket("127.0.0.1", port)
    for host, given in (
        ("no.such.name.invalid", 0),
        ("no.such.name.invalid", 8000),
        ("192.0.2.1", 0),
        ("192.0.2.1", port),
    ):
        with pytest.raises(UserError, match=f"{host}:{given} can't be listened to .*; give another --host"):
            open_socket(host, given)
