"""outcomes.parquet: what became of each row of the list, the ledger of an assembly."""

import enum


class Status(enum.StrEnum):
    """The closed set of what can become of a row; docs and reports use these words."""

    KEPT = "kept"  # a picture, in a shard
    NOT_FOUND = "not_found"  # 404
    GONE = "gone"  # 410
    FORBIDDEN = "forbidden"  # 401, 402, 403, 407, 451
    HTTP_ERROR = "http_error"  # any other refusal of the client's request
    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 5xx
    TIMEOUT = "timeout"  # no answer, or none before the deadline
    TOO_SLOW = "too_slow"  # below the lowest speed that is waited for
    DNS = "dns"  # the host's name couldn't be resolved
    REFUSED = "refused"  # no connection, or one reset before its end
    INCOMPLETE = "incomplete"  # fewer bytes came than were announced
    TOO_LARGE = "too_large"  # more bytes than the cap
    TOO_MANY_REDIRECTS = "too_many_redirects"
    UNSUPPORTED_URL = "unsupported_url"  # neither http nor https
    MISSING_FILE = "missing_file"  # a Caffe list's local path that can't be read
    PLACEHOLDER = "placeholder"  # the host's "photo unavailable" picture
    NOT_AN_IMAGE = "not_an_image"
    BAD_ENCODING = "bad_encoding"  # still compressed as the transport had it, or not decodable as such
    CORRUPT = "corrupt"  # a picture's beginning that doesn't decode whole
    TOO_SMALL = "too_small"
    TOO_MANY_PIXELS = "too_many_pixels"
    DOWNLOAD_ERROR = "download_error"  # aria2 gave up for a reason of its own; the message has it
