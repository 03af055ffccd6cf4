"""Reads the bytes of a list from a file, the web or the cache."""

import dataclasses
import hashlib
import re
from pathlib import Path

import requests

from shards.errors import ShardsError
from shards.files import write_file
from shards.location import cache_folder
from shards.url_list.flickr_style import FLICKR_STYLE, FLICKR_STYLE_SHA256, FLICKR_STYLE_URL

SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_CAFFE_LIST = re.compile(rf"({SPLIT_NAME.pattern})=(.+)", re.DOTALL)
_TIMEOUT = 60.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Source:
    """The bytes of a list, or of several Caffe list files."""

    name: str  # the list's name in messages
    parts: dict[str, bytes]  # a Caffe list file's bytes by split, or the list's bytes under ""
    paths: dict[str, str] = dataclasses.field(default_factory=dict)  # of Caffe list files by split, as they were given

    @property
    def is_local(self) -> bool:
        """Whether the rows are local paths; only Caffe list files may name local files."""
        return "" not in self.parts

    @property
    def sha256(self) -> str:
        """The hash (hex) of the bytes; for Caffe list files, of their splits and hashes."""
        if not self.is_local:
            return hashlib.sha256(self.parts[""]).hexdigest()
        lines = [f"{split}={hashlib.sha256(part).hexdigest()}\n" for split, part in self.parts.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_source(lists: list[str]) -> Source:
    """Read the values of --list: one list of URLs, or Caffe list files as split=path.

    Raises:
        ShardsError: a list can't be read, or lists of both kinds are given.
    """
    caffe = [_CAFFE_LIST.fullmatch(name) for name in lists]
    if len(lists) == 1 and not caffe[0]:
        return Source(lists[0], {"": _read(lists[0])})
    parts: dict[str, bytes] = {}
    paths: dict[str, str] = {}
    for name, match in zip(lists, caffe, strict=True):
        if match is None:
            raise ShardsError(f"--list {name}: each of several lists must be a Caffe list file, given as split=path")
        if match[1] in parts:
            raise ShardsError(f"--list {name}: the split {match[1]} has another list; give one")
        parts[match[1]] = _read(match[2])
        paths[match[1]] = match[2]
    if not parts:
        raise ShardsError("--list names no list")
    return Source(" ".join(lists), parts, paths)


def _read(name: str) -> bytes:
    if name == FLICKR_STYLE:
        return fetch_cached(FLICKR_STYLE_URL, FLICKR_STYLE_SHA256, cache_folder())
    if re.match(r"https?://", name, re.IGNORECASE):
        return _fetch(name)
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character in the name, or ~ and an unknown user
        reason = error.strerror if isinstance(error, OSError) else error
        raise ShardsError(f"--list {name}: {reason}; give a file, an http(s) URL or {FLICKR_STYLE}") from error


def _fetch(url: str) -> bytes:
    try:
        response = requests.get(url, timeout=_TIMEOUT)
        response.raise_for_status()
    except (requests.RequestException, ValueError) as error:  # ValueError: urllib3's, for some invalid URLs
        raise ShardsError(f"--list {url}: {' '.join(str(error).split())}") from error
    return response.content


def fetch_cached(url: str, sha256: str, folder: Path) -> bytes:
    """Return the file at `url` that has this hash, from the cache `folder` if it is there.

    Raises:
        ShardsError: the download failed, or has another hash.
    """
    path = folder / url.rpartition("/")[2]
    if path.is_file():
        body = path.read_bytes()
        if hashlib.sha256(body).hexdigest() == sha256:
            return body
    body = _fetch(url)
    found = hashlib.sha256(body).hexdigest()
    if found != sha256:
        raise ShardsError(f"{url} has the sha256 {found}, not {sha256}: the file has changed")
    write_file(path, body)
    return body
