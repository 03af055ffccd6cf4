import socket

import pytest

from tests.stylefinetune.serve.conftest import ADDRESS

TOKEN = "a-token-of-a-test-1234"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "192.0.2.1",
        "[fe80::1%25eth0]",
        "pictures.example",
        socket.gethostname(),
    ],
)
def test_the_names_of_the_server_are_answered(open_client, host):
    client = open_client(hosts=["Pictures.example"])
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[", "a@b"]
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/api/model", "/serve.js"])
def test_another_name_is_refused_at_every_path(client, host, path):
    """A page of another site, whose name its owner has let point to 127.0.0.1, could read the answers."""
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "isn't called" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1/healthz?", "localhost/healthz?a=", "localhost/serve.js#", "localhost\\healthz?"]
)
def test_a_host_with_a_path_doesnt_replace_the_path(open_client, host):
    """Starlette's request.url begins with the Host header."""
    client = open_client(token=TOKEN)
    answer = client.get("/api/model", headers={"Host": host})
    assert answer.status_code == 421
    assert "checkpoint" not in answer.text


def test_pages_of_other_sites_may_not_send_pictures(client, picture):
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:9000",
        "http://127.0.0.1:8000.evil.example",
        "http://[",
    ):
        answer = client.post("/api/predict", content=picture, headers={"Origin": origin})
        assert (answer.status_code, answer.json()) == (403, {"error": "pages of other sites may not make this request"})
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client.post("/api/predict", content=picture, headers={"Sec-Fetch-Site": site}).status_code == status
    assert client.post("/api/predict", content=picture, headers={"Origin": ADDRESS}).status_code == 200
    # A reverse proxy may take https requests for the same name.
    headers = {"Host": "localhost", "Origin": "https://localhost"}
    assert client.post("/api/predict", content=picture, headers=headers).status_code == 200


def test_the_token_is_needed_in_the_header(open_client, picture):
    client = open_client(token=TOKEN)
    for path in ("/api/model", "/openapi.json", "/api/test_set", "/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    for given in (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer \xe9"):
        headers = {"Authorization": given.encode("latin-1")}
        assert client.post("/api/predict", content=picture, headers=headers).status_code == 401
    answer = client.post("/api/predict", content=picture, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert client.get("/healthz").status_code == 200


def test_a_link_with_the_token_opens_the_page(open_client):
    client = open_client(token=TOKEN)
    answer = client.get("/")
    assert answer.status_code == 401
    assert 'type="password"' in answer.text
    assert "This is not the token" in client.get("/?token=wrong").text
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Classify pictures" in client.get("/").text  # the client has the cookie
    assert client.get("/api/model").status_code == 200
    # The cookie of another token has another name.
    assert open_client(token=f"{TOKEN}5").get(f"/?token={TOKEN}5").headers["set-cookie"][:22] != cookie[:22]


def test_the_form_takes_the_token(open_client):
    client = open_client(token=TOKEN)
    assert client.post("/login", data={"token": "wrong"}).status_code == 401
    assert client.post("/login", data={}).status_code == 401
    assert client.post("/login", data={"token": TOKEN}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/login", content=b"token=" + bytes(100_000)).status_code == 413
    assert client.get("/api/model").status_code == 401
    assert client.post("/login", data={"token": TOKEN}).status_code == 303
    assert client.get("/api/model").status_code == 200


def test_every_answer_has_the_headers_that_protect_the_page(client):
    for path, host in (
        ("/", "localhost"),
        ("/nothing", "localhost"),
        ("/", "evil.example"),
        ("/serve.js", "localhost"),
    ):
        headers = client.get(path, headers={"Host": host}).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
