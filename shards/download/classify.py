"""Map aria2's result of a download, and its redirects and headers, to an outcome status and a message."""

import dataclasses
import re

from shards.config.schema import AssembleConfig
from shards.download.aria2_log import RequestTrace
from shards.download.policy import find_disallowed_directive, find_refused_redirect
from shards.format.outcomes import Status

# aria2's exit codes (manual, "Exit status"); those of _HTTP_CODES are mapped by their HTTP status instead.
_STATUS_OF_CODE = {
    2: Status.TIMEOUT,
    5: Status.TOO_SLOW,
    6: Status.REFUSED,
    17: Status.TOO_LARGE,  # a write over the file size limit
    19: Status.DNS,
    23: Status.TOO_MANY_REDIRECTS,
    24: Status.FORBIDDEN,
}
_HTTP_CODES = {3, 22, 24, 29}
_STATUS_OF_HTTP = {
    401: Status.FORBIDDEN,
    402: Status.FORBIDDEN,
    403: Status.FORBIDDEN,
    404: Status.NOT_FOUND,
    407: Status.PROXY_REFUSED,
    408: Status.TIMEOUT,
    410: Status.GONE,
    429: Status.RATE_LIMITED,
    451: Status.FORBIDDEN,
}
_LOCAL_FAILURES = {9, 15, 16, 18}  # no disk space, or a local file or folder that can't be opened or created


@dataclasses.dataclass(frozen=True)
class AttemptResult:
    """The result of one attempt at a URL."""

    status: Status  # KEPT if a response body was received; it may still not be a picture
    message: str  # the reason for any other status, in one line
    trace: RequestTrace = dataclasses.field(default_factory=RequestTrace)  # redirects and headers
    http_status: int | None = None  # status code of the last response, if there was one


def classify(result: dict[str, str], trace: RequestTrace, config: AssembleConfig) -> AttemptResult:
    """Return the result of a download that aria2 has stopped.

    `result` has its status, errorCode, errorMessage and totalLength from aria2; `config` has the rules for redirects
    and X-Robots-Tag.
    """
    return AttemptResult(*_find_status(result, trace, config), trace, find_http_status(result, trace))


def _find_status(result: dict[str, str], trace: RequestTrace, config: AssembleConfig) -> tuple[Status, str]:
    refused_redirect = find_refused_redirect(trace, allow_private=config.allow_private)
    if refused_redirect:
        return Status.REDIRECT_REFUSED, refused_redirect
    if result["status"] == "complete":
        directive = find_disallowed_directive(trace.robots, config.disallowed_header_directives)
        return (Status.NOAI, f"X-Robots-Tag: {directive}") if directive else (Status.KEPT, "")
    code, message = int(result.get("errorCode") or 0), error_message(result)
    http_status = find_http_status(result, trace)
    if http_status and code in _HTTP_CODES:
        default = Status.SERVER_ERROR if http_status >= 500 else Status.HTTP_ERROR
        return _STATUS_OF_HTTP.get(http_status, default), message
    if code == 1:  # "unknown error": no connection, a connection that was closed early, or an invalid redirect
        if "Redirect to" in message:
            return Status.REDIRECT_REFUSED, message
        return Status.INCOMPLETE if int(result["totalLength"]) else Status.REFUSED, message
    if code == 17:
        message = f"over max_bytes {config.max_bytes}"
    return _STATUS_OF_CODE.get(code, Status.DOWNLOAD_ERROR), message


def is_local_failure(result: dict[str, str]) -> bool:
    """Whether the download failed because this machine has no disk space or denies access."""
    return result["status"] == "error" and int(result.get("errorCode") or 0) in _LOCAL_FAILURES


def error_message(result: dict[str, str]) -> str:
    """Return aria2's error message in one line."""
    return " ".join(result.get("errorMessage", "").split())


def find_http_status(result: dict[str, str], trace: RequestTrace) -> int | None:
    """Return the HTTP status of the last response, from aria2's error message or its log."""
    http = re.search(r"status=(\d{3})", result.get("errorMessage", ""))
    return int(http[1]) if http else trace.http_status
