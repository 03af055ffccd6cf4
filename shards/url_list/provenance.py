"""A picture's host, photographer, and year of posting on Flickr, from its list and URLs."""

import bisect
import datetime as dt
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

# Photo ids on Flickr and their days of posting; ids grew with time. Those up to 5 billion are from Hans Kullin's record
# (kullin.net/2010/09/flickr-5-billion-photos), the others from responses of Flickr's API that are examples in public
# source code. From 2016 on, ids came from several ranges at once and give no date.
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
    """Return the host of a URL in lower case; empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # for example, an unclosed bracket
        return ""


def owner_of(columns: Mapping[str, object]) -> str | None:
    """Return a row's photographer: its column `owner`, or the user in the Flickr URL in its column `page_url`."""
    owner = _text(columns.get("owner"))
    if owner:
        return owner
    page = _text(columns.get("page_url"))
    if not _is_in(host_of(page), "flickr.com"):
        return None
    folder, _, rest = urlsplit(page).path.lstrip("/").partition("/")
    return unquote(rest.partition("/")[0]) or None if folder == "photos" else None


def year_posted(image_url: str) -> int | None:
    """Estimate the year in which a photo was posted on Flickr; None for other URLs, and for ids after 2015.

    The date is interpolated between known dates less than a year apart, so a photo posted around New Year may get the
    neighbouring year.
    """
    if not _is_in(host_of(image_url), "staticflickr.com", "static.flickr.com"):
        return None
    name = _PHOTO_FILE.fullmatch(urlsplit(image_url).path.rpartition("/")[2])
    photo = int(name[1]) if name else 0
    if not 0 < photo <= _POSTED[-1][0]:
        return None
    index = bisect.bisect_left(_POSTED, (photo,))
    if index == 0:
        return _POSTED[0][1].year
    (first, begin), (last, end) = _POSTED[index - 1], _POSTED[index]
    return (begin + (end - begin) * ((photo - first) / (last - first))).year


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _is_in(host: str, *domains: str) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
