"""outcomes.parquet: what became of each row of the list, the ledger of an assembly."""

import dataclasses
import datetime as dt
import enum

import pyarrow as pa

OUTCOMES_FILE = "outcomes.parquet"


class Status(enum.StrEnum):
    """The closed set of what can become of a row; docs and reports use these words, and docs/crawl.md explains them."""

    KEPT = "kept"  # a picture, in a shard
    NOT_FOUND = "not_found"  # 404
    GONE = "gone"  # 410
    FORBIDDEN = "forbidden"  # 401, 402, 403, 451
    HTTP_ERROR = "http_error"  # any other refusal
    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 5xx
    PROXY_REFUSED = "proxy_refused"  # 407
    TIMEOUT = "timeout"  # no answer in time, or none whole before the deadline
    TOO_SLOW = "too_slow"  # below the lowest speed that is waited for
    DNS = "dns"  # the host's name couldn't be resolved
    REFUSED = "refused"  # no connection, or one that ended before a body began
    INCOMPLETE = "incomplete"  # the connection ended before the body did
    CANCELLED = "cancelled"  # not asked for: its host had refused too often in a row
    TOO_LARGE = "too_large"  # more bytes than the cap
    TOO_MANY_REDIRECTS = "too_many_redirects"
    REDIRECT_REFUSED = "redirect_refused"  # it led to another scheme, to a private address, or nowhere
    DOWNLOAD_ERROR = "download_error"  # aria2 gave up for another reason; the message has it
    UNSUPPORTED_URL = "unsupported_url"  # not http or https
    MISSING_FILE = "missing_file"  # a Caffe list's local path that can't be read
    NOAI = "noai"  # its host says in X-Robots-Tag that it isn't for this
    HASH_MISMATCH = "hash_mismatch"  # not the bytes whose hash the list gives
    PLACEHOLDER = "placeholder"  # the host's "photo unavailable" picture
    NOT_AN_IMAGE = "not_an_image"
    BAD_ENCODING = "bad_encoding"  # still compressed as it was for the transport
    CORRUPT = "corrupt"  # begins as a picture and doesn't decode whole
    TOO_SMALL = "too_small"
    TOO_MANY_PIXELS = "too_many_pixels"
    DUPLICATE = "duplicate"  # the bytes of a row that was kept before it, where only one is wanted


# What may be otherwise a moment later: such a row is asked for again.
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

OUTCOMES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # the row's place in the list as read, from 0
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("http_status", pa.int32()),  # of the last answer
        pa.field("attempts", pa.int32(), nullable=False),  # how often it was asked for
        pa.field("final_url", pa.string()),  # after redirects
        pa.field("bytes", pa.int64()),  # of the body as it came
        pa.field("seconds", pa.float64(), nullable=False),  # that the last attempt took
        pa.field("sha256", pa.string()),  # hex, of the body as it came
        pa.field("format", pa.string()),  # of the body, told by its first bytes; null where it is no picture's
        pa.field("duplicate_of", pa.int64()),  # of kept rows with equal bodies, the first; null for that one itself
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("message", pa.string(), nullable=False),  # why it wasn't kept, in one line
    ]
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one row; the fields are columns of SCHEMA."""

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
