"""What aria2's end of a download, and its way there, mean for the row: a status and why."""

import re

from shards.config.schema import AssembleConfig
from shards.download.aria2_log import RequestTrace
from shards.download.policy import find_disallowed_directive, find_refused_redirect
from shards.format.outcomes import Status

# aria2's exit codes (manual, "Exit status"); what has an HTTP status is told by that.
_STATUS_OF_CODE = {
    2: Status.TIMEOUT,
    5: Status.TOO_SLOW,
    6: Status.REFUSED,
    17: Status.TOO_LARGE,  # a write refused by the file size limit
    19: Status.DNS,
    23: Status.TOO_MANY_REDIRECTS,
    24: Status.FORBIDDEN,
}
_REFUSED_BY_HTTP = {3, 22, 24, 29}
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
_LOCAL_FAILURES = {9, 15, 16, 18}  # no room, or a file or folder of ours that can't be opened or made


def classify(result: dict[str, str], trace: RequestTrace, config: AssembleConfig) -> tuple[Status, str]:
    """Returns what a download that aria2 stopped has come to, KEPT where a body may be looked at, and why in one line.

    Args:
        result: aria2's status, errorCode, errorMessage and totalLength of it.
        trace: its way.
        config: what may be.
    """
    fault = find_refused_redirect(trace, allow_private=config.allow_private)
    if fault:
        return Status.REDIRECT_REFUSED, fault
    if result["status"] == "complete":
        ban = find_disallowed_directive(trace.robots, config.disallowed_header_directives)
        return (Status.NOAI, f"X-Robots-Tag: {ban}") if ban else (Status.KEPT, "")
    code, message = int(result.get("errorCode") or 0), message_of(result)
    http = http_status_of(result, trace)
    if http and code in _REFUSED_BY_HTTP:
        return Status.SERVER_ERROR if http >= 500 else _STATUS_OF_HTTP.get(http, Status.HTTP_ERROR), message
    if code == 1:  # aria2's "unknown": the connection wasn't made, or ended; or a redirect led nowhere
        if "Redirect to" in message:
            return Status.REDIRECT_REFUSED, message
        return Status.INCOMPLETE if int(result["totalLength"]) else Status.REFUSED, message
    return _STATUS_OF_CODE.get(code, Status.DOWNLOAD_ERROR), message


def is_local_failure(result: dict[str, str]) -> bool:
    """Tells whether it ended for want of room or rights on this machine."""
    return result["status"] == "error" and int(result.get("errorCode") or 0) in _LOCAL_FAILURES


def message_of(result: dict[str, str]) -> str:
    """Returns aria2's own words, in one line."""
    return " ".join(result.get("errorMessage", "").split())


def http_status_of(result: dict[str, str], trace: RequestTrace) -> int | None:
    """Returns the last answer's HTTP status, if there was an answer."""
    http = re.search(r"status=(\d{3})", result.get("errorMessage", ""))
    return int(http[1]) if http else trace.http_status
