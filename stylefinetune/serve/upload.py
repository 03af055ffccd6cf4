"""Reads the bodies of requests, with limits of size, time and memory."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from stylefinetune.serve.errors import ApiError, busy_error
from stylefinetune.serve.settings import Settings

_FORM_BYTES = 2**16  # of a form around its picture
_SMALL_BYTES = 2**16


class Uploads:
    """Reads bodies, and counts the memory that those of all requests take."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._used = 0  # bytes

    @contextlib.asynccontextmanager
    async def read_picture(self, request: Request) -> AsyncGenerator[tuple[str | None, bytes]]:
        """Yield the name and the bytes of a picture: the body, or the file of a multipart form.

        Raises:
            ApiError: there is none, or it exceeds a limit.
        """
        is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        async with self._limit(request, self._settings.max_bytes, _FORM_BYTES if is_form else 0) as limited:
            async with self._within_time():
                name, body = await _read_form(limited) if is_form else (None, await limited.body())
            if not body:
                raise ApiError(400, "the body is empty; send a picture, as the body or as a file in a multipart form")
            yield name, body

    async def read_json(self, request: Request) -> dict[str, Any]:
        """Return the JSON object in the body.

        Raises:
            ApiError: there is none, or it exceeds a limit.
        """
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise ApiError(415, "Content-Type must be application/json")
        try:
            found = json.loads(await self.read_small(request))
            json.dumps(found, ensure_ascii=False).encode()  # fails for \ud800 alone, which no answer can have
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "the body is not JSON") from error
        if not isinstance(found, dict):
            raise ApiError(400, "the body is not a JSON object")
        return found

    async def read_small(self, request: Request) -> bytes:
        """Return a body that is no picture.

        Raises:
            ApiError: it exceeds a limit.
        """
        async with self._limit(request, _SMALL_BYTES, 0) as limited, self._within_time():
            return await limited.body()

    @contextlib.asynccontextmanager
    async def _within_time(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._settings.timeout):
                yield
        except TimeoutError as error:
            message = f"the request was not complete within {self._settings.timeout:g} s"
            raise ApiError(408, message) from error
        except ClientDisconnect as error:
            raise ApiError(400, "the connection broke off") from error

    @contextlib.asynccontextmanager
    async def _limit(self, request: Request, max_bytes: int, overhead: int) -> AsyncGenerator[Request]:
        """Yield the request with a limit on its body, whose bytes are counted until the end of the block."""
        received = 0
        length = request.headers.get("content-length", "")
        if length.isdecimal():
            _check_size(int(length), max_bytes, overhead)

        async def receive() -> Message:
            nonlocal received
            message = await request.receive()
            count = len(message.get("body", b""))
            received += count
            self._used += count
            _check_size(received, max_bytes, overhead)
            if self._used > self._settings.memory:
                raise busy_error("too many large pictures are being received; try again")
            return message

        try:
            yield Request(request.scope, receive)
        finally:
            self._used -= received


def _check_size(size: int, max_bytes: int, overhead: int) -> None:
    if size > max_bytes + overhead:
        raise ApiError(413, f"the request has more than {max_bytes:,} bytes")


async def _read_form(request: Request) -> tuple[str | None, bytes]:
    """Return the name and the bytes of the first file of a form."""
    try:
        async with request.form(max_files=1, max_fields=8, max_part_size=_FORM_BYTES) as form:
            for value in form.values():
                if isinstance(value, UploadFile):
                    (value.filename or "").encode()  # the answer has the name
                    return value.filename, await value.read()
    except UnicodeError as error:
        raise ApiError(400, "the form does not have the encoding that its header names") from error
    raise ApiError(400, "the form has no file")
