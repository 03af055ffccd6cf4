"""Downloads large files: to a draft first, so that a file under its final path is complete."""

from pathlib import Path

import requests

from shards.errors import ShardsError, joined_lines
from shards.files import make_folder, publish_file

_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPTS = 3
_CHUNK = 2**20  # bytes


def fetch_file(url: str, path: Path, headers: dict[str, str] | None = None) -> None:
    """Download a file; a failure that may be temporary is tried again.

    Raises:
        ShardsError: the download failed.
    """
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.part")
    for is_last in (*[False] * (_ATTEMPTS - 1), True):
        try:
            _download(url, draft, headers)
        except (requests.RequestException, ValueError) as error:  # ValueError: urllib3's, for some invalid URLs
            response = getattr(error, "response", None)
            if is_last or (response is not None and response.status_code < 500):
                raise ShardsError(f"{url}: {joined_lines(error)}; run the same command again to continue") from error
        else:
            publish_file(draft, path)
            return


def _download(url: str, path: Path, headers: dict[str, str] | None) -> None:
    with requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as response, path.open("wb") as file:
        response.raise_for_status()
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
