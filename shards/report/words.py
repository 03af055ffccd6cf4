"""The outcomes in plain words, for people who read the page; outcomes.parquet has the details of each row."""

from shards.format.outcomes import NOT_YET, Status

_WORDS = {
    Status.KEPT: ("kept", "the picture is in the shards"),
    Status.NOT_FOUND: ("not found", "the host has nothing at this URL"),
    Status.GONE: ("removed", "the host says that it removed the picture"),
    Status.FORBIDDEN: ("access denied", "the host gives the picture only to some visitors, or to none"),
    Status.HTTP_ERROR: ("request refused", "the host refused the request for another reason"),
    Status.RATE_LIMITED: ("too many requests", "the host asked for fewer requests"),
    Status.SERVER_ERROR: ("host out of order", "the host answered that it had a fault or was overloaded"),
    Status.PROXY_REFUSED: ("proxy refused", "the proxy refused the request, for example because of a wrong password"),
    Status.TIMEOUT: ("no answer in time", "the host did not answer, or the picture was not complete in time"),
    Status.TOO_SLOW: ("too slow", "the host sent only few bytes a second"),
    Status.DNS: ("unknown host", "the name of the host could not be found"),
    Status.REFUSED: ("no connection", "the host accepted no connection, or ended it before the picture began"),
    Status.TLS_ERROR: ("no secure connection", "for example, the certificate of the host has expired"),
    Status.BAD_RESPONSE: ("invalid answer", "the answer of the host breaks the rules of HTTP"),
    Status.INCOMPLETE: ("interrupted", "the connection ended within the picture"),
    Status.CANCELLED: ("not requested", "the host had failed too often before"),
    Status.TOO_LARGE: ("file too large", "the file has more bytes than allowed"),
    Status.TOO_MANY_REDIRECTS: ("too many redirects", "the host redirected the request again and again"),
    Status.REDIRECT_REFUSED: ("unsafe redirect", "the host redirected the request to a place that is not followed"),
    Status.DOWNLOAD_ERROR: ("download failed", "for another reason"),
    Status.UNSUPPORTED_URL: ("not a web address", "the list has no http or https URL in this row"),
    Status.MISSING_FILE: ("missing file", "the file does not exist or can't be read"),
    Status.NOAI: ("opted out", "the host forbids this use"),
    Status.HASH_MISMATCH: ("changed", "the file differs from the one that was listed or announced"),
    Status.PLACEHOLDER: ("placeholder", "the host sends the same picture in place of many that are missing"),
    Status.NOT_AN_IMAGE: ("not a picture", "for example a web page"),
    Status.BAD_ENCODING: ("wrongly compressed", "the file can't be decompressed"),
    Status.CORRUPT: ("damaged", "the picture can't be decoded completely"),
    Status.TOO_SMALL: ("too small", "the picture has too few pixels"),
    Status.TOO_MANY_PIXELS: ("too many pixels", "the picture has more pixels than allowed"),
    Status.DUPLICATE: ("duplicate", "an earlier row has the same picture"),
    NOT_YET: ("not yet", "the row has not been processed"),
}


def name_outcome(status: str) -> str:
    """Return a short name of a status; an unknown status is its own name."""
    return _WORDS.get(status, (status, ""))[0]


def explain_outcome(status: str) -> str:
    """Return what a status means; an empty string for an unknown status."""
    return _WORDS.get(status, (status, ""))[1]
