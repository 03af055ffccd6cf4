"""The format of outcomes.parquet: the result for each row of the list."""

import dataclasses
import datetime as dt
import enum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUTCOMES_FILE = "outcomes.parquet"


class Status(enum.StrEnum):
    """All possible results for a row; docs/crawl_reference.md explains them."""

    KEPT = "kept"  # the picture is in a shard
    NOT_FOUND = "not_found"  # 404
    GONE = "gone"  # 410
    FORBIDDEN = "forbidden"  # 401, 402, 403, 451
    HTTP_ERROR = "http_error"  # any other HTTP error
    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 5xx
    PROXY_REFUSED = "proxy_refused"  # 407
    TIMEOUT = "timeout"  # no response in time, or not complete before the deadline
    TOO_SLOW = "too_slow"  # below the lowest speed allowed
    DNS = "dns"  # the host name couldn't be resolved
    REFUSED = "refused"  # no connection, or it ended before the response body began
    TLS_ERROR = "tls_error"  # no encrypted connection, for example because of an expired certificate
    BAD_RESPONSE = "bad_response"  # a response that breaks the rules of HTTP, such as Content-Length: abc
    INCOMPLETE = "incomplete"  # the connection ended within the response body
    CANCELLED = "cancelled"  # not requested: its host had failed too often in a row
    TOO_LARGE = "too_large"  # more bytes than max_bytes
    TOO_MANY_REDIRECTS = "too_many_redirects"
    REDIRECT_REFUSED = "redirect_refused"  # to another scheme, to a private address, or to no URL
    DOWNLOAD_ERROR = "download_error"  # any other error of aria2; the message has it
    UNSUPPORTED_URL = "unsupported_url"  # not http or https
    MISSING_FILE = "missing_file"  # a Caffe list's local path that can't be read
    NOAI = "noai"  # X-Robots-Tag forbids this use
    HASH_MISMATCH = "hash_mismatch"  # the bytes differ from the hash in the list or in the Digest header
    PLACEHOLDER = "placeholder"  # the host's "photo unavailable" picture
    NOT_AN_IMAGE = "not_an_image"
    BAD_ENCODING = "bad_encoding"  # the body is still compressed, or does not decompress
    CORRUPT = "corrupt"  # begins as a picture, but doesn't decode completely
    TOO_SMALL = "too_small"
    TOO_MANY_PIXELS = "too_many_pixels"
    DUPLICATE = "duplicate"  # an earlier kept row has the same bytes, and drop_duplicates is set


# Failures that a later attempt may not meet: such a row is requested again.
TRANSIENT_STATUSES = frozenset(
    {
        Status.RATE_LIMITED,
        Status.SERVER_ERROR,
        Status.PROXY_REFUSED,
        Status.TIMEOUT,
        Status.TOO_SLOW,
        Status.DNS,
        Status.REFUSED,
        Status.INCOMPLETE,
        Status.CANCELLED,
    }
)

NOT_YET = "not_yet"  # the status of rows whose block isn't committed; never in outcomes.parquet


@dataclasses.dataclass(frozen=True)
class StatusGroup:
    """Statuses that mean much the same to the user."""

    key: str  # the group's name in HTML and CSS
    name: str  # the group's name for people
    meaning: str  # an explanation
    statuses: frozenset[str]  # values of `Status`


STATUS_GROUPS = (
    StatusGroup("kept", "kept", "a picture in the shards", frozenset({"kept"})),
    StatusGroup(
        "lost",
        "lost",
        "permanently unavailable: the host reports it missing, refuses it, or sends something else",
        frozenset({"not_found", "gone", "forbidden", "http_error", "too_many_redirects", "redirect_refused"})
        | {"placeholder", "unsupported_url", "missing_file"},
    ),
    StatusGroup(
        "no_answer",
        "no answer",
        "a failure that may be temporary; try again with --retry passing",
        frozenset(str(status) for status in TRANSIENT_STATUSES) | {"download_error"},
    ),
    StatusGroup(
        "unusable",
        "unusable",
        "the response isn't a usable picture",
        frozenset({"not_an_image", "bad_encoding", "corrupt", "too_small", "too_many_pixels", "too_large"})
        | {"hash_mismatch", "tls_error", "bad_response"},
    ),
    StatusGroup(
        "skipped",
        "skipped",
        "the host has opted out, or the picture is a duplicate of a kept one",
        frozenset({"noai", "duplicate"}),
    ),
    StatusGroup("pending", "pending", "its block isn't committed yet; assemble continues", frozenset({NOT_YET})),
)
_GROUP_OF = {status: group for group in STATUS_GROUPS for status in group.statuses}


def group_of(status: str) -> StatusGroup:
    """Return a status's group; "lost" for an unknown status."""
    return _GROUP_OF.get(status, _GROUP_OF["not_found"])


OUTCOMES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # index of the row in the list as read, from 0
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("http_status", pa.int32()),  # of the last response
        pa.field("attempts", pa.int32(), nullable=False),  # number of requests
        pa.field("final_url", pa.string()),  # after redirects
        pa.field("bytes", pa.int64()),  # of the response body
        pa.field("seconds", pa.float64(), nullable=False),  # duration of the last attempt
        pa.field("sha256", pa.string()),  # hex, of the response body
        pa.field("format", pa.string()),  # detected from the first bytes; null if it is not a picture
        pa.field("duplicate_of", pa.int64()),  # first kept row with equal bytes; null for that row itself
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("message", pa.string(), nullable=False),  # why it wasn't kept; one line
    ]
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result for one row; the fields are columns of `OUTCOMES_SCHEMA`."""

    status: Status
    time: dt.datetime
    http_status: int | None = None
    attempts: int = 0
    final_url: str | None = None
    bytes: int | None = None
    seconds: float = 0.0
    sha256: str | None = None
    format: str | None = None
    message: str = ""


def count_outcomes(path: Path) -> dict[str, int]:
    """Return the number of rows by status in outcomes.parquet, the largest first; empty if it can't be read.

    Training and its report show these numbers, and need nothing else of the file.
    """
    try:
        counts = pq.read_table(path, columns=["status"])["status"].value_counts().to_pylist()
    except (OSError, KeyError, pa.ArrowException):  # missing, damaged, or of another program
        return {}
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: -count["counts"])}
