"""The objects under a URL such as s3://bucket/DIR: listed, read and written whole. A failure is one line."""

import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from shards.errors import ShardsError
from shards.files import is_full_disk

_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}  # stores that replace objects whole
# Seconds before each further attempt, in addition to the attempts of the libraries themselves.
_RETRY_DELAYS = (2.0, 8.0, 30.0)

_RANGE_BYTES = 1 << 22  # of each request for a part of an object

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """An object as its store lists it."""

    size: int  # bytes
    mtime_ns: int  # time of the last change, as the store knows it
    tag: str = ""  # S3's and Google's tag of the content


class ObjectStore:
    """All objects whose names begin with a URL.

    Methods with `is_retried` fail at the first error if it is False.

    Args:
        url: s3://, gs:// or, within one process, memory://; the library finds the credentials and the endpoint.
        advice: what the message of a store that keeps failing ends with.

    Raises:
        ShardsError: another protocol, or one whose library isn't installed.
    """

    def __init__(self, url: str, advice: str = "uploaded blocks are kept; run the same command to continue") -> None:
        import fsspec.core  # noqa: PLC0415 -- takes 0.1 s, which a local folder need not wait for

        self.url = url
        self._advice = advice
        protocol = url.partition("://")[0]
        if protocol not in _LIBRARIES:
            raise ShardsError(f"{url}: a store must be s3:// or gs://; give one of those, or a folder")
        try:
            # Other processes write under the URL too, so listings are never cached.
            fs, base = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            name = _LIBRARIES[protocol]
            raise ShardsError(
                f"{url}: {protocol}:// needs a library that isn't installed: pip install {name}"
            ) from error
        self._fs: Any = fs
        self._base = base.rstrip("/")
        if not self._base.strip("/"):
            raise ShardsError(f"{url} names no bucket; give {protocol}://BUCKET/DIR")

    def list(self) -> dict[str, int]:
        """Return the size in bytes of every object, by its name under the URL; called first, never retried."""
        return {name: found.size for name, found in self.list_objects().items()}

    def list_objects(self) -> dict[str, StoredObject]:
        """Return every object by its name under the URL; called first, never retried."""
        found = self._call(lambda: self._fs.find(self._base, detail=True), is_retried=False) or {}
        names = {name: name[len(self._base) + 1 :] for name in found}  # those that end with a slash mark folders
        return {short: _read_info(found[name]) for name, short in names.items() if short and not short.endswith("/")}

    def find_object(self, name: str, *, is_retried: bool = True) -> StoredObject | None:
        """Return an object as it is now, or None if there is no such object."""
        info = self._call(lambda: self._fs.info(self._path(name)), is_retried=is_retried, missing_ok=True)
        return _read_info(info) if info else None

    def read(self, name: str, *, is_retried: bool = True) -> bytes | None:
        """Return an object's bytes, or None if there is no such object."""
        return self._call(lambda: self._fs.cat_file(self._path(name)), is_retried=is_retried, missing_ok=True)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return a part of an object, as ranges requested together; it is shorter where the object ends before."""
        starts = list(range(start, stop, _RANGE_BYTES))
        stops = [min(begin + _RANGE_BYTES, stop) for begin in starts]
        paths = [self._path(name)] * len(starts)
        return b"".join(self._call(lambda: self._fs.cat_ranges(paths, starts, stops, on_error="raise")) or ())

    def get(self, name: str, path: Path) -> None:
        """Download an object to a file."""
        self._call(lambda: self._fs.get_file(self._path(name), str(path)))

    def write(self, name: str, content: bytes, *, is_retried: bool = True) -> None:
        """Write an object from bytes, replacing one of the same name."""
        self._call(lambda: self._fs.pipe_file(self._path(name), content), is_retried=is_retried)

    def put(self, path: Path, name: str) -> None:
        """Upload a file to an object, replacing one of the same name."""
        self._call(lambda: self._fs.put_file(str(path), self._path(name)))

    def copy(self, name: str, target: str) -> None:
        """Copy an object to another within the store."""
        self._call(lambda: self._fs.cp_file(self._path(name), self._path(target)))

    def remove(self, names: Iterable[str], *, is_retried: bool = True) -> None:
        """Remove objects one after another; ignore those that don't exist."""
        for name in names:
            self._call(lambda name=name: self._fs.rm_file(self._path(name)), is_retried=is_retried, missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _call(
        self, call: Callable[[], _Result], *, is_retried: bool = True, missing_ok: bool = False
    ) -> _Result | None:
        """Call the store, and again after a delay if the error may be transient; None for what is missing."""
        for delay in (*(_RETRY_DELAYS if is_retried else ()), None):
            try:
                return call()
            except Exception as error:  # the libraries' errors have no common base class
                if is_full_disk(error):
                    raise  # this machine's disk is full
                if missing_ok and isinstance(error, FileNotFoundError):
                    return None
                reason = " ".join(str(error).split())[:300]
                if isinstance(error, FileNotFoundError):
                    message = (
                        f"{self.url}: not found ({reason}); check the name of the bucket, or create the bucket first"
                    )
                elif isinstance(error, PermissionError):
                    message = f"{self.url}: refused ({reason}); check the credentials and their permissions"
                elif delay is None:
                    reason = f"{type(error).__name__}: {reason}"[:300]
                    message = f"{self.url} fails ({reason}); {self._advice}"
                else:
                    time.sleep(delay)
                    continue
                raise ShardsError(message) from error
        raise AssertionError


def _read_info(info: dict[str, Any]) -> StoredObject:
    """Convert what s3fs, gcsfs or fsspec's store in memory says about an object."""
    changed = info.get("LastModified") or info.get("updated") or info.get("created") or 0
    if isinstance(changed, str):
        changed = dt.datetime.fromisoformat(changed)
    seconds = changed.timestamp() if isinstance(changed, dt.datetime) else float(changed)
    return StoredObject(int(info["size"]), round(seconds * 1e6) * 1000, str(info.get("ETag") or info.get("etag") or ""))
