"""Opens a list, which is a file, or the bytes that were read from the web or the cache."""

import dataclasses
import functools
import hashlib
import io
import os
import re
import stat
from pathlib import Path
from typing import IO

import requests

from shards.errors import ShardsError
from shards.files import write_file
from shards.local.class_folders import FolderRules, list_class_folders
from shards.local.hf_dataset import DatasetRules, list_dataset
from shards.local.hf_hub import fetch_dataset
from shards.location import cache_folder
from shards.url_list.flickr_style import FLICKR_STYLE, FLICKR_STYLE_SHA256, FLICKR_STYLE_URL

SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_CAFFE_LIST = re.compile(rf"({SPLIT_NAME.pattern})=(.+)", re.DOTALL)
_DATASET = "hf:"
_CHUNK = 2**20  # bytes
_TIMEOUT = 60.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Source:
    """A list, a folder of pictures, or several Caffe list files."""

    name: str  # the list's name in messages
    # A Caffe list file's bytes by split, or under "" the list: its bytes, or the path of a file, which may be large.
    parts: dict[str, bytes] | dict[str, bytes | Path]
    paths: dict[str, str] = dataclasses.field(default_factory=dict)  # of Caffe list files by split, as they were given
    max_bytes: int | None = None  # largest size of a compressed list when it is decompressed
    base: Path | None = None  # folder of the list's local pictures; None for URLs, and for Caffe list files
    is_folder: bool = False  # whether the list was made from a folder of pictures
    picture_column: str | None = None  # of a dataset whose pictures are in Parquet files
    classes: tuple[str, ...] = ()  # class names in label order, of a folder or a dataset
    warnings: tuple[str, ...] = ()  # about a folder of pictures, a line each

    @property
    def is_caffe(self) -> bool:
        """Whether these are Caffe list files."""
        return "" not in self.parts

    @property
    def is_local(self) -> bool:
        """Whether the rows are local paths."""
        return self.is_caffe or self.base is not None

    @property
    def may_grow(self) -> bool:
        """Whether rows may be added at the end: not to Caffe list files, a folder or a dataset."""
        return not (self.is_caffe or self.is_folder or self.picture_column)

    @property
    def sha256(self) -> str:
        """The hash (hex) of the bytes; for Caffe list files, of their splits and hashes."""
        if not self.is_caffe:
            return self._first_read[0]
        lines = [f"{split}={_hash(self.open(split))}\n" for split in self.parts]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def open(self, split: str = "") -> IO[bytes]:
        """Open the list, or a Caffe list file, for reading."""
        part = self.parts[split]
        return io.BytesIO(part) if isinstance(part, bytes) else part.open("rb")

    def check_unchanged(self) -> None:
        """Check that the list is the one that was hashed.

        Raises:
            ShardsError: its file has changed since then.
        """
        if not self.is_caffe and self._state() != self._first_read[1]:
            raise ShardsError(f"--list {self.name} has changed while it was read; run the same command again")

    @functools.cached_property
    def _first_read(self) -> tuple[str, tuple[int, ...]]:
        """The hash (hex) of the list, and what identifies its file's content."""
        state = self._state()
        return _hash(self.open()), state

    def _state(self) -> tuple[int, ...]:
        part = self.parts[""]
        if isinstance(part, bytes):
            return ()
        found = part.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


def _hash(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    with file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_source(
    lists: list[str],
    max_bytes: int | None = None,
    *,
    local: bool = False,
    folder_rules: FolderRules | None = None,
    dataset_rules: DatasetRules | None = None,
) -> Source:
    """Read the values of --list: a list of URLs, a folder of pictures, a dataset, or Caffe list files as split=path.

    With `local`, the list of URLs is one of paths, relative to the list's folder. Only a list on this machine may name
    files of this machine.

    Raises:
        ShardsError: a list can't be read, or lists of both kinds are given.
    """
    if len(lists) != 1 or _CAFFE_LIST.fullmatch(lists[0]):
        return _read_caffe_lists(lists)
    (name,) = lists
    if name.startswith(_DATASET):
        return _read_dataset(name, dataset_rules or DatasetRules())
    folder = _find_folder(name)
    if folder:
        return _read_folder(name, folder, folder_rules or FolderRules())
    if local and (name == FLICKR_STYLE or _is_web_url(name)):
        raise ShardsError(
            f"--list {name}: a list from the web may not name local files; download it, check it, and give "
            "the file with --local"
        )
    base = Path(name).expanduser().parent if local else None
    return Source(name, {"": _find(name)}, max_bytes=max_bytes, base=base)


def _read_folder(name: str, folder: Path, rules: FolderRules) -> Source:
    found = list_class_folders(folder, rules)
    return Source(
        name=name,
        parts={"": found.listing},
        base=folder,
        is_folder=True,
        classes=found.classes,
        warnings=found.warnings,
    )


def _read_caffe_lists(lists: list[str]) -> Source:
    """Read Caffe list files, each given as split=path."""
    parts: dict[str, bytes] = {}
    paths: dict[str, str] = {}
    for name in lists:
        match = _CAFFE_LIST.fullmatch(name)
        if match is None:
            raise ShardsError(f"--list {name}: each of several lists must be a Caffe list file, given as split=path")
        if match[1] in parts:
            raise ShardsError(f"--list {name}: the split {match[1]} has another list; give one")
        part = _find(match[2])
        parts[match[1]] = part if isinstance(part, bytes) else part.read_bytes()
        paths[match[1]] = match[2]
    if not parts:
        raise ShardsError("--list names no list")
    return Source(" ".join(lists), parts, paths)


def _read_dataset(name: str, rules: DatasetRules) -> Source:
    """Read hf:PATH or hf:NAME, with :SPLIT or without."""
    place, split = name.removeprefix(_DATASET), None
    if not Path(place).expanduser().exists() and ":" in place:
        place, _, split = place.rpartition(":")
    path = Path(place).expanduser()
    if not path.exists():
        path = fetch_dataset(place, split)
    found = list_dataset(path, dataclasses.replace(rules, split=split))
    return Source(
        name=name,
        parts={"": found.listing},
        base=found.base,
        picture_column=found.picture_column,
        classes=found.classes,
    )


def _is_web_url(name: str) -> bool:
    return bool(re.match(r"https?://", name, re.IGNORECASE))


def _find_folder(name: str) -> Path | None:
    """Return the path of a folder, or None if `name` is something else."""
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # as in _find, which reports it
        return None


def _find(name: str) -> bytes | Path:
    """Return the path of a file, or the bytes of what is no regular file or not on this machine."""
    if name == FLICKR_STYLE:
        return fetch_cached(FLICKR_STYLE_URL, FLICKR_STYLE_SHA256, cache_folder())
    if _is_web_url(name):
        return _fetch(name, "download it elsewhere, and give its path")
    try:
        path = Path(name).expanduser()
        with path.open("rb") as file:  # not a pipe, which can be read once only
            return path if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else file.read()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character in the name, or ~ and an unknown user
        reason = error.strerror if isinstance(error, OSError) else error
        remedy = f"give a file, a folder of pictures, an http(s) URL or {FLICKR_STYLE}"
        raise ShardsError(f"--list {name}: {reason}; {remedy}") from error


def _fetch(url: str, remedy: str) -> bytes:
    try:
        response = requests.get(url, timeout=_TIMEOUT)
        response.raise_for_status()
    except (requests.RequestException, ValueError) as error:  # ValueError: urllib3's, for some invalid URLs
        raise ShardsError(f"--list {url} can't be downloaded ({_reason(error)}); {remedy}") from error
    return response.content


def _reason(error: Exception) -> str:
    """Return the cause of a failed request in one line, without the names of urllib3's objects around it."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return " ".join(str(error).split()) if cause is None else " ".join(str(cause).split()).rpartition(": ")[2]


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
    body = _fetch(url, f"download it elsewhere, and copy it to {path}")
    found = hashlib.sha256(body).hexdigest()
    if found != sha256:
        raise ShardsError(f"{url} has the sha256 {found}, not {sha256}: the file has changed")
    write_file(path, body)
    return body
