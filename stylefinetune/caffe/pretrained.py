"""What Caffe's authors published: fetched once, checked, and from then on called by its name."""

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import BinaryIO

import requests

from stylefinetune.caffe.files import read_mean
from stylefinetune.errors import UserError

# Where the files lie, tried in turn; a copy elsewhere is added here, or named with --mirror.
MIRRORS = ("http://dl.caffe.berkeleyvision.org",)

_ATTEMPTS = 20  # times that a download which breaks off is taken up again, as long as it gets on
_TIMEOUT = (15.0, 60.0)  # seconds for a connection, and without a byte
_LARGEST_DOWNLOAD = 2**30
_LARGEST_UNPACKED = 2**28  # bytes; caffe_ilsvrc12.tar.gz holds some 60 MB
_LARGEST_MEMBER = 2**24
_MAX_MEMBERS = 1000
_CHUNK = 2**16  # bytes; a connection that breaks off loses those of the last one


@dataclasses.dataclass(frozen=True)
class Published:
    """A file that is fetched.

    Attributes:
        file: its name on the hosts.
        sha1: its hash, hex; None where none was published.
        member: the one file of an archive that is kept; None keeps the file itself.
    """

    file: str
    sha1: str | None = None
    member: str | None = None

    @property
    def kept(self) -> str:
        """Returns the name that it has in the cache."""
        return self.member or self.file


PUBLISHED = {
    "bvlc_reference_caffenet": Published(
        "bvlc_reference_caffenet.caffemodel", sha1="4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"
    ),
    "finetune_flickr_style": Published(
        "finetune_flickr_style.caffemodel", sha1="b61b5cef7d771b53b0c488e78d35ccadc073e9cf"
    ),
    "imagenet_mean": Published("caffe_ilsvrc12.tar.gz", member="imagenet_mean.binaryproto"),
}


class _MirrorError(Exception):
    """A mirror that can't serve; the message says why in a few words."""


def locate_published(name: str) -> Path:
    """Returns the path of the published file called `name`, or `name` itself as a path.

    Raises:
        UserError: it is published, but not fetched yet.
    """
    if name not in PUBLISHED:
        return Path(name)
    path = _cache_folder() / PUBLISHED[name].kept
    if not path.is_file():
        raise UserError(f"{name} isn't here yet; fetch it with: python -m stylefinetune.weights {name}")
    return path


def fetch_published(name: str, mirrors: Sequence[str], show: Callable[[int, int], None]) -> Path:
    """Fetches a published file into the cache, going on where an earlier attempt broke off.

    Args:
        name: one of PUBLISHED.
        mirrors: URLs of folders that hold it, tried in turn.
        show: is told the bytes that are here and the bytes there are, 0 if unknown.

    Raises:
        UserError: no mirror serves it, or it isn't the file that was published.
    """
    wanted = PUBLISHED[name]
    final = _cache_folder() / wanted.kept
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(_MirrorError, OSError):
            _check(final, wanted)
            return final
        with _open_part(final.with_name(f"{wanted.file}.part")) as part:
            failures: list[str] = []
            for mirror in mirrors:
                try:
                    _fetch_from(f"{mirror.rstrip('/')}/{wanted.file}", part, wanted, final, show)
                except _MirrorError as error:
                    failures.append(f"{mirror} {error}")
                else:
                    return final
    except OSError as error:
        raise UserError(f"{error.filename or final}: {error.strerror}") from error
    use = "--data.mean_file FILE" if wanted.member else "--weights FILE"
    raise UserError(
        f"{name} can't be fetched: {'; '.join(failures)}. Name another place with --mirror URL, "
        f"or get {wanted.kept} by other means and pass its path: {use}"
    )


def _fetch_from(url: str, part: BinaryIO, wanted: Published, final: Path, show: Callable[[int, int], None]) -> None:
    """Completes `part` from `url`, checks it and puts it in its place."""
    while True:
        begun = _size(part) > 0
        _download(url, part, show)
        try:
            _publish(part, wanted, final)
        except _MirrorError:
            part.truncate(0)
            if not begun:
                raise
            # What an earlier attempt left may be at fault: once more from the first byte.
        else:
            return


def _publish(part: BinaryIO, wanted: Published, final: Path) -> None:
    path = Path(part.name)
    if wanted.member is None:
        _check(path, wanted)
        os.fsync(part)
        path.replace(final)
        return
    draft = final.with_name(f"{final.name}.draft")
    try:
        draft.write_bytes(_unpack(path, wanted.member))
        _check(draft, wanted)
        draft.replace(final)
    finally:
        draft.unlink(missing_ok=True)
    path.unlink()


def _check(path: Path, wanted: Published) -> None:
    """Sees that a file is the one that was published: by its hash, or a mean picture by what it holds."""
    if wanted.sha1 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha1").hexdigest()
        if found != wanted.sha1:
            raise _MirrorError(f"has another file: its sha1 is {found}, not {wanted.sha1}")
        return
    try:
        mean = read_mean(path)
    except UserError as error:
        raise _MirrorError(f"has another file: {error}") from error
    if mean.shape != (3, 256, 256) or mean.min() < 0 or mean.max() > 255:
        raise _MirrorError(f"has another file: {wanted.kept} in it is no mean of 256x256 pictures")


def _download(url: str, part: BinaryIO, show: Callable[[int, int], None]) -> None:
    for _ in range(_ATTEMPTS):
        before = _size(part)
        try:
            if _download_rest(url, part, show):
                return
        except requests.RequestException as error:
            if _size(part) <= before:
                raise _MirrorError(_reason(error)) from error
    raise _MirrorError(f"broke off {_ATTEMPTS} times")


def _download_rest(url: str, part: BinaryIO, show: Callable[[int, int], None]) -> bool:
    """Asks for what `part` lacks and writes what comes; False where it must be asked for anew, from the first byte."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        span = response.headers.get("Content-Range", "")
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            if span == f"bytes */{have}":
                return True
            part.truncate(0)
            return False
        if not response.ok:
            raise _MirrorError(f"answers {response.status_code}")
        if response.status_code != requests.codes.partial_content:
            part.truncate(0)
            have = 0
        elif not span.startswith(f"bytes {have}-"):
            part.truncate(0)
            return False
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else 0
        for chunk in response.iter_content(_CHUNK):
            part.write(chunk)
            part.flush()
            have += len(chunk)
            if have > _LARGEST_DOWNLOAD:
                raise _MirrorError("sends more than 1 GB")
            show(have, total)
    return True


def _unpack(archive: Path, wanted: str) -> bytes:
    """Reads one member of a .tar.gz by its name; nothing is written, and no other name or link is followed."""
    try:
        with _BoundedGzip(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as members:
            for place, member in enumerate(members):
                if place >= _MAX_MEMBERS:
                    break
                if member.name.removeprefix("./") != wanted:
                    continue
                if not member.isreg() or member.size > _LARGEST_MEMBER:
                    raise _MirrorError(f"has another archive: {wanted} in it is no file of a few hundred KB")
                content = members.extractfile(member)
                assert content is not None
                return content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise _MirrorError(f"has another archive: it can't be unpacked ({error})") from error
    raise _MirrorError(f"has another archive: there is no {wanted} in it")


class _BoundedGzip(gzip.GzipFile):
    """A .gz that ends in an error when it unpacks to more than _LARGEST_UNPACKED bytes."""

    _left = _LARGEST_UNPACKED

    def read(self, size: int | None = -1) -> bytes:
        """Reads as GzipFile does."""
        wanted = self._left + 1
        body = super().read(wanted if size is None or size < 0 else min(size, wanted))
        self._left -= len(body)
        if self._left < 0:
            raise tarfile.ReadError(f"more than {_LARGEST_UNPACKED // 2**20} MB")
        return body


@contextlib.contextmanager
def _open_part(path: Path) -> Generator[BinaryIO]:
    """Opens what has been downloaded so far, for this process alone."""
    with path.open("ab") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path} is being fetched by another process; wait for it to end") from error
        try:
            yield part
        finally:
            if _size(part) == 0:
                path.unlink(missing_ok=True)


def _size(part: BinaryIO) -> int:
    return os.fstat(part.fileno()).st_size


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "doesn't answer"
    if isinstance(error, (requests.exceptions.MissingSchema, requests.exceptions.InvalidURL)):
        return "is no URL"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "is neither http nor https"
    return "can't be reached"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylefinetune"
