"""The objects under a URL, such as s3://bucket/DIR: listed, read and put whole; what fails there is one line."""

import errno
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import fsspec.core

from shards.errors import ShardsError

_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}  # stores that replace objects whole
# Seconds before another try, beyond the few that the libraries make by themselves: what passes is mostly over by then.
_RETRY_DELAYS = (2.0, 8.0, 30.0)

_Result = TypeVar("_Result")


class ObjectStore:
    """Everything whose name begins with a URL.

    Args:
        url: s3://, gs:// or, within one process, memory://; credentials and endpoint are the library's to find.

    Raises:
        ShardsError: another protocol, or one whose library isn't installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        protocol = url.partition("://")[0]
        if protocol not in _LIBRARIES:
            raise ShardsError(f"{url}: a store must be s3:// or gs://; give one of those, or a folder")
        try:
            # Other processes write there too: nothing that was listed once may be believed later.
            fs, self._base = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            name = _LIBRARIES[protocol]
            raise ShardsError(f"{url}: {protocol}:// needs a library that isn't here: pip install {name}") from error
        self._fs: Any = fs
        self._base = self._base.rstrip("/")
        if not self._base.strip("/"):
            raise ShardsError(f"{url} names no bucket; give {protocol}://BUCKET/DIR")

    def list(self) -> dict[str, int]:
        """Returns every object's size in bytes, by its name under the URL; fails at once, for it comes first."""
        found = self._do(lambda: self._fs.find(self._base, detail=True), is_patient=False)
        sizes = {name[len(self._base) + 1 :]: int(info["size"]) for name, info in found.items()}
        return {name: size for name, size in sizes.items() if name and not name.endswith("/")}  # which mean folders

    def read(self, name: str, *, is_patient: bool = True) -> bytes | None:
        """Returns an object's bytes, or None where there is none."""

        def read() -> bytes | None:
            try:
                return self._fs.cat_file(self._at(name))
            except FileNotFoundError:
                return None

        return self._do(read, is_patient=is_patient)

    def get(self, name: str, path: Path) -> None:
        """Makes a file of an object."""
        self._do(lambda: self._fs.get_file(self._at(name), str(path)))

    def write(self, name: str, content: bytes, *, is_patient: bool = True) -> None:
        """Makes an object of bytes, in the place of the one that has its name."""
        self._do(lambda: self._fs.pipe_file(self._at(name), content), is_patient=is_patient)

    def put(self, path: Path, name: str) -> None:
        """Makes an object of a file, in the place of the one that has its name."""
        self._do(lambda: self._fs.put_file(str(path), self._at(name)))

    def copy(self, name: str, target: str) -> None:
        """Makes an object of another, within the store."""
        self._do(lambda: self._fs.cp_file(self._at(name), self._at(target)))

    def remove(self, names: Iterable[str], *, is_patient: bool = True) -> None:
        """Removes objects, one after the other; what isn't there needn't be."""

        def remove(name: str) -> None:
            try:
                self._fs.rm_file(self._at(name))
            except FileNotFoundError:  # S3 doesn't tell, the others do
                return

        for name in names:
            self._do(lambda name=name: remove(name), is_patient=is_patient)

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _do(self, call: Callable[[], _Result], *, is_patient: bool = True) -> _Result:
        """Calls the store, again after a pause where what failed may pass."""
        pauses = _RETRY_DELAYS if is_patient else ()
        for pause in (*pauses, None):
            try:
                return call()
            except Exception as error:  # each store's library has errors of its own, of no common class
                if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
                    raise  # this machine's disk
                lasting = self._tell_lasting(error)
                if lasting or pause is None:
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
                    passing = f"{self.url} fails ({reason}); what is there stays, and the same command goes on"
                    raise ShardsError(lasting or passing) from error
                time.sleep(pause)
        raise AssertionError

    def _tell_lasting(self, error: Exception) -> str | None:
        """Says what is wrong that won't pass, or None."""
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, FileNotFoundError):
            return f"{self.url}: not found ({reason}); is the bucket's name right? It must be made before"
        if isinstance(error, PermissionError):
            return f"{self.url}: refused ({reason}); check the credentials, and what they may do there"
        return None
