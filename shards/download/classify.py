"""Maps aria2's result of a download, and its redirects and headers, to an outcome status and a message."""

import dataclasses
import re
from urllib.parse import urlsplit

from shards.config.schema import AssembleConfig
from shards.download.policy import find_disallowed_directive, find_refused_redirect
from shards.download.request_trace import RequestTrace
from shards.download.url_rewrite import encode_url
from shards.format.outcomes import Status

_UNKNOWN_ERROR, _TOO_LARGE, _WRONG_DIGEST = 1, 17, 32
# aria2's exit codes (manual, "Exit status"); those of _HTTP_CODES are mapped by their HTTP status instead.
_STATUS_OF_CODE = {
    2: Status.TIMEOUT,
    5: Status.TOO_SLOW,
    6: Status.REFUSED,
    _TOO_LARGE: Status.TOO_LARGE,  # a write over the file size limit
    19: Status.DNS,
    23: Status.TOO_MANY_REDIRECTS,
    24: Status.FORBIDDEN,
    _WRONG_DIGEST: Status.HASH_MISMATCH,
}
_HTTP_CODES = {3, 22, 24, 29}
# The causes of aria2's "unknown error", by a part of its message; any other is a connection that ended.
_STATUS_OF_CAUSE = (
    ("Redirect to", Status.REDIRECT_REFUSED),
    ("SSL/TLS handshake failure: SSL I/O error", Status.REFUSED),  # the connection ended
    ("SSL/TLS handshake failure: ", Status.TLS_ERROR),
    ("libz::inflate() failed", Status.BAD_ENCODING),
    ("Content-Length", Status.BAD_RESPONSE),
    ("Transfer encoding", Status.BAD_RESPONSE),
    ("Bad chunk size", Status.BAD_RESPONSE),
    ("Bad Status-Line", Status.BAD_RESPONSE),
    ("Bad status code", Status.BAD_RESPONSE),
    ("Bad HTTP header", Status.BAD_RESPONSE),
)
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
_DECODED = {"gzip", "deflate"}  # encodings that aria2 decodes, if they are spelled like this
_DECODED_BY_RELAY = _DECODED | {"x-gzip", "x-deflate"}  # in any spelling
_ACCEPTED = {200, 206}  # HTTP statuses
_REFUSED_SUCCESSES = {201, 202, 203, 207, 208, 226}
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
    status, message = _find_status(result, trace, config)
    http_status = None if status is Status.BAD_RESPONSE else find_http_status(result, trace)
    return AttemptResult(status, message, trace, http_status)


def is_unverified(result: dict[str, str], trace: RequestTrace) -> bool:
    """Whether the trace does not show all of the response that aria2 has received, or shows one that it refuses.

    Such a URL is requested again through the relay, which sees complete responses and accepts each success.
    """
    is_misspelled = trace.content_encoding not in _DECODED and trace.content_encoding.lower() in _DECODED_BY_RELAY
    if trace.is_cut or trace.is_doubtful or is_misspelled or any(map(_is_misread, trace.redirects)):
        return True
    if result["status"] == "complete":
        return trace.http_status not in _ACCEPTED
    if int(result.get("errorCode") or 0) not in _HTTP_CODES:
        return False
    return trace.http_status is None or trace.http_status in _REFUSED_SUCCESSES


def _is_misread(redirect: str) -> bool:
    """Whether aria2 misreads the target of a redirect: it has an upper-case scheme or a host that is not ASCII."""
    return encode_url(redirect) != redirect or "%" in urlsplit(redirect).netloc


def _find_status(result: dict[str, str], trace: RequestTrace, config: AssembleConfig) -> tuple[Status, str]:
    refused_redirect = find_refused_redirect(trace, allow_private=config.allow_private)
    if refused_redirect:
        return Status.REDIRECT_REFUSED, refused_redirect
    if trace.failure:
        return trace.failure
    if result["status"] == "complete":
        directive = find_disallowed_directive(trace.robots, config.disallowed_header_directives)
        return (Status.NOAI, f"X-Robots-Tag: {directive}") if directive else (Status.KEPT, "")
    code, message = int(result.get("errorCode") or 0), error_message(result)
    http_status = find_http_status(result, trace)
    if http_status and code in _HTTP_CODES:
        default = Status.SERVER_ERROR if 500 <= http_status < 600 else Status.HTTP_ERROR
        return _STATUS_OF_HTTP.get(http_status, default), message
    if int(result["totalLength"]) > config.max_bytes:
        code = _TOO_LARGE
    if code == _UNKNOWN_ERROR:
        is_begun = int(result["totalLength"]) > 0 or trace.http_status in _ACCEPTED
        default = Status.INCOMPLETE if is_begun else Status.REFUSED
        return next((status for cause, status in _STATUS_OF_CAUSE if cause in message), default), message
    if code == _TOO_LARGE:
        message = f"over max_bytes {config.max_bytes}"
    if code == _WRONG_DIGEST:
        message = "the response body differs from the checksum in its Digest header"
    return _STATUS_OF_CODE.get(code, Status.DOWNLOAD_ERROR), message


def is_local_failure(result: dict[str, str]) -> bool:
    """Whether the download failed because this machine has no disk space or denies access."""
    return result["status"] == "error" and int(result.get("errorCode") or 0) in _LOCAL_FAILURES


def error_message(result: dict[str, str]) -> str:
    """Return aria2's error message in one line."""
    return " ".join(result.get("errorMessage", "").split())


def find_http_status(result: dict[str, str], trace: RequestTrace) -> int | None:
    """Return the HTTP status of the last response, from the trace or from aria2's error message."""
    if trace.http_status or trace.failure:
        return trace.http_status
    http = re.search(r"status=(\d{3})", result.get("errorMessage", ""))
    return int(http[1]) if http else None
