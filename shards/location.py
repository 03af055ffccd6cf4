"""Where a shard directory is: a local folder or a URL, and the folder of cached files."""

import os
import re
import shlex
from pathlib import Path

from shards.errors import ShardsError

_COPYING = {"s3": "aws s3 cp --recursive {} DIR", "gs": "gcloud storage cp --recursive {} DIR"}


def url_of(path: Path) -> str | None:
    """Returns the URL that a path was made of, which it has lost a slash of; None of any other path."""
    found = re.match(r"([a-z][a-z0-9+.-]*):/+(.*)", str(path))
    if found is None:
        return None
    return f"file:///{found[2]}" if found[1] == "file" else f"{found[1]}://{found[2]}"


def refuse_url(path: Path) -> None:
    """Raises ShardsError where a URL was given for what must be a folder."""
    url = url_of(path)
    if url:
        protocol = url.partition("://")[0]
        how = f"give its path, {url.removeprefix('file://')}" if protocol == "file" else "copy it down first"
        command = f": {_COPYING[protocol].format(shlex.quote(url))}" if protocol in _COPYING else ""
        raise ShardsError(f"{url}: a folder is needed here, no URL; {how}{command}")


def cache_folder() -> Path:
    """Returns the folder of what may be fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylefinetune"


FILE_SCHEME = "file://"


def object_store_url(out: Path) -> str | None:
    """Returns the URL that DIR was given as; None where it is a folder, as it is with file:// too."""
    url = url_of(out)
    return None if url is None or url.startswith(FILE_SCHEME) else url
