"""Where a picture comes from, as far as its list and URLs tell: host, photographer, year of posting on Flickr."""

import bisect
import datetime as dt
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

# Flickr numbers its photos as they come. Known pairs of a photo's id and the day it was posted: up to 5 billion those
# that Hans Kullin kept track of (kullin.net/2010/09/flickr-5-billion-photos), later ones from answers of Flickr's API
# that stand as examples in public source code. From 2016 on ids were handed out from several ranges at once and no
# longer tell the time.
_POSTED = (
    (1_000_000, dt.date(2004, 10, 22)),
    (10_000_000, dt.date(2005, 4, 20)),
    (100_000_000, dt.date(2006, 2, 15)),
    (250_000_000, dt.date(2006, 9, 22)),
    (500_000_000, dt.date(2007, 5, 15)),
    (850_000_000, dt.date(2007, 7, 19)),
    (1_500_000_000, dt.date(2007, 10, 6)),
    (2_000_000_000, dt.date(2007, 11, 13)),
    (2_500_000_000, dt.date(2008, 5, 17)),
    (3_000_000_000, dt.date(2008, 11, 3)),
    (3_500_000_000, dt.date(2009, 5, 4)),
    (4_000_000_000, dt.date(2009, 10, 11)),
    (5_000_000_000, dt.date(2010, 9, 18)),
    (5_977_249_629, dt.date(2011, 7, 26)),
    (6_110_054_503, dt.date(2011, 9, 3)),
    (7_500_858_540, dt.date(2012, 7, 4)),
    (8_432_423_659, dt.date(2013, 1, 31)),
    (8_659_998_886, dt.date(2013, 4, 18)),
    (8_998_787_742, dt.date(2013, 6, 9)),
    (9_528_576_237, dt.date(2013, 8, 17)),
    (9_990_655_265, dt.date(2013, 9, 29)),
    (12_688_635_254, dt.date(2014, 2, 22)),
    (14_644_234_613, dt.date(2014, 7, 11)),
    (16_661_925_622, dt.date(2015, 2, 27)),
    (18_663_435_860, dt.date(2015, 6, 16)),
    (23_350_994_122, dt.date(2015, 12, 2)),
)
_PHOTO_FILE = re.compile(r"(\d{1,15})_[0-9a-f]+(?:_\w)?\.\w+", re.ASCII)


def host_of(url: str) -> str:
    """Returns the host that a URL names, in lower case; an empty string where it names none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # such as a bracket that doesn't close
        return ""


def owner_of(columns: Mapping[str, object]) -> str | None:
    """Returns who made a row's picture: its column `owner`, or the photographer in the Flickr URL of its `page_url`."""
    owner = _text(columns.get("owner"))
    if owner:
        return owner
    page = _text(columns.get("page_url"))
    if not _is_of(host_of(page), "flickr.com"):
        return None
    folder, _, rest = urlsplit(page).path.lstrip("/").partition("/")
    return unquote(rest.partition("/")[0]) or None if folder == "photos" else None


def year_posted(image_url: str) -> int | None:
    """Estimates from its id when a photo was posted on Flickr; None where the URL isn't one of Flickr's or is too late.

    The estimate runs straight between the pairs above, which are less than a year apart, so a photo of around New
    Year may count to the year beside its own.
    """
    if not _is_of(host_of(image_url), "staticflickr.com", "static.flickr.com"):
        return None
    named = _PHOTO_FILE.fullmatch(urlsplit(image_url).path.rpartition("/")[2])
    photo = int(named[1]) if named else 0
    if not 0 < photo <= _POSTED[-1][0]:
        return None
    after = bisect.bisect_left(_POSTED, (photo,))
    if not after:
        return _POSTED[0][1].year
    (first, begin), (last, end) = _POSTED[after - 1], _POSTED[after]
    return (begin + (end - begin) * ((photo - first) / (last - first))).year


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _is_of(host: str, *domains: str) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
