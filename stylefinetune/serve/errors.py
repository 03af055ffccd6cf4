"""The errors of the API: an HTTP status, and one line in JSON."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that can't be answered.

    Attributes:
        status: of HTTP.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def busy_error(message: str) -> ApiError:
    """Return the error of a server that has too much to do now; the client may try again after a second."""
    return ApiError(503, message, {"Retry-After": "1"})


def rate_error(what: str, rate: float, seconds: float) -> ApiError:
    """Return the error of a client that has made too many requests; it may make the next one after some seconds."""
    message = f"more than {rate:g} {what} a second; try again in {seconds:.1f} s"
    return ApiError(429, message, {"Retry-After": str(max(1, round(seconds)))})


def error_response(error: ApiError) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def handle_api_error(_: Request, error: Exception) -> JSONResponse:
    """Return the response for an ApiError of a route."""
    assert isinstance(error, ApiError)
    return error_response(error)


async def handle_http_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an error that Starlette raises, such as an unknown path."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"{request.scope['path']} doesn't exist; /openapi.json lists the paths",
        405: f"{request.scope['path']} doesn't take {request.method}",
    }
    message = messages.get(error.status_code, error.detail)
    return error_response(ApiError(error.status_code, message, error.headers))


async def handle_crash(_: Request, error: Exception) -> JSONResponse:
    """Return the response for an error of the program, whose traceback is on stderr."""
    return error_response(ApiError(500, f"the server failed: {type(error).__name__}"))
