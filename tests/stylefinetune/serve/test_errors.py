from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.testclient import TestClient

from stylefinetune.serve.errors import ApiError, busy_error, handle_api_error, handle_crash, handle_http_error

HANDLERS = {ApiError: handle_api_error, HTTPException: handle_http_error, Exception: handle_crash}


def answer_of(error, path="/a", method="GET"):
    def fail(_):
        raise error

    app = Starlette(routes=[Route("/a", fail)], exception_handlers=HANDLERS)
    return TestClient(app, raise_server_exceptions=False).request(method, path)


def test_errors_are_one_line_in_json():
    answer = answer_of(ApiError(415, "no picture", {"X-A": "b"}))
    assert (answer.status_code, answer.json(), answer.headers["x-a"]) == (415, {"error": "no picture"}, "b")
    answer = answer_of(busy_error("later"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    answer = answer_of(HTTPException(400, "a wrong form"))
    assert (answer.status_code, answer.json()) == (400, {"error": "a wrong form"})


def test_unknown_paths_and_methods():
    answer = answer_of(None, "/b")
    assert (answer.status_code, answer.json()["error"]) == (404, "/b doesn't exist; /openapi.json lists the paths")
    answer = answer_of(None, method="DELETE")
    assert (answer.status_code, answer.json()["error"]) == (405, "/a doesn't take DELETE")
    assert "GET" in answer.headers["allow"]


def test_a_crash_doesnt_reveal_details():
    answer = answer_of(KeyError("secret"))
    assert (answer.status_code, answer.json()) == (500, {"error": "the server failed: KeyError"})
