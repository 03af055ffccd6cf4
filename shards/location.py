"""The location of a shard directory, a local folder or a URL, and of the cache folder."""

import os
import re
import shlex
from pathlib import Path

from shards.errors import ShardsError

FILE_SCHEME = "file://"
_COPY_COMMANDS = {"s3": "aws s3 cp --recursive {} DIR", "gs": "gcloud storage cp --recursive {} DIR"}


def url_of(path: Path) -> str | None:
    """Restore the URL that was given as a path, which collapses its slashes; return None for any other path."""
    found = re.match(r"([a-z][a-z0-9+.-]*):/+(.*)", str(path))
    if found is None:
        return None
    return f"file:///{found[2]}" if found[1] == "file" else f"{found[1]}://{found[2]}"


def object_store_url(out: Path) -> str | None:
    """Return the URL that DIR was given as; None if DIR is a local folder, which file:// is too."""
    url = url_of(out)
    return None if url is None or url.startswith(FILE_SCHEME) else url


def refuse_url(path: Path) -> None:
    """Check that a path is not a URL.

    Raises:
        ShardsError: it is one; the message says how to copy the shards to a folder.
    """
    url = url_of(path)
    if url:
        scheme = url.partition("://")[0]
        remedy = f"give its path, {url.removeprefix(FILE_SCHEME)}" if scheme == "file" else "copy it down first"
        command = f": {_COPY_COMMANDS[scheme].format(shlex.quote(url))}" if scheme in _COPY_COMMANDS else ""
        raise ShardsError(f"{url}: a folder is needed here, not a URL; {remedy}{command}")


def cache_folder() -> Path:
    """Return the folder for files that can be downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylefinetune"
