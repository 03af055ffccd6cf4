"""Downloads and checks the files that Caffe's authors published, and finds them by name afterwards."""

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import io
import itertools
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shards.format import cache_folder
from shards.format.text import find_file
from stylefinetune.caffe.files import read_mean
from stylefinetune.errors import UserError

if TYPE_CHECKING:
    import requests

# Tried in order; users can add others with --mirror.
MIRRORS = ("http://dl.caffe.berkeleyvision.org",)

_ATTEMPTS = 20  # requests per download, each of which continues where the previous one broke off
_TIMEOUT = (15.0, 60.0)  # seconds to connect, and between two reads
_LARGEST_DOWNLOAD = 2**30
_LARGEST_UNPACKED = 2**28  # bytes; caffe_ilsvrc12.tar.gz has about 60 MB
_LARGEST_MEMBER = 2**24
_MAX_MEMBERS = 1000
_CHUNK = 2**16  # bytes; a connection that breaks off loses at most the last chunk


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file."""

    file: str  # name on the mirrors
    sha1: str | None = None  # hash, hex; None if none was published
    member: str | None = None  # file to extract from the archive; None if the file is not an archive

    @property
    def cache_name(self) -> str:
        """Name of the file in the cache."""
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
    """Why a mirror can't be used, in a few words."""


def locate_published(name: str) -> Path:
    """Return the path of a published file, or of a local file, whose name on disk may be in another encoding.

    Raises:
        UserError: the published file has not been downloaded yet.
    """
    if name not in PUBLISHED:
        return find_file(name)
    path = cache_folder() / PUBLISHED[name].cache_name
    if not path.is_file():
        raise UserError(f"{name} isn't downloaded yet; run: stylefinetune weights {name}")
    return path


def fetch_published(name: str, mirrors: Sequence[str], show: Callable[[int, int], None]) -> Path:
    """Download a published file into the cache, continuing an earlier attempt that broke off.

    The `mirrors`, URLs of folders with the file, are tried in order. `show` is called with the number of bytes received
    and the number in total, 0 if unknown.

    Raises:
        UserError: no mirror has the published file.
    """
    wanted = PUBLISHED[name]
    final = cache_folder() / wanted.cache_name
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
        f"{name} can't be fetched: {'; '.join(failures)}. Name another mirror with --mirror URL, "
        f"or get {wanted.cache_name} elsewhere and pass its path: {use}"
    )


def _fetch_from(url: str, part: BinaryIO, wanted: Published, final: Path, show: Callable[[int, int], None]) -> None:
    """Complete `part` from `url`, check it and move it to `final`."""
    continued = _size(part) > 0
    _download(url, part, show)
    try:
        _publish(part, wanted, final)
    except _MirrorError:
        part.truncate(0)
        if not continued:
            raise
        # The bytes of an earlier attempt may be damaged; download again from the first byte.
        _fetch_from(url, part, wanted, final, show)


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
    """Check that a file is the published one: by its hash, or a mean picture by its content."""
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
        raise _MirrorError(f"has another file: {wanted.cache_name} in it is not a mean of 256x256 pictures")


def _download(url: str, part: BinaryIO, show: Callable[[int, int], None]) -> None:
    """Append the missing bytes to `part`, in several requests if the connection breaks off."""
    import requests  # noqa: PLC0415 -- a training run imports this module, but does not download

    for _ in range(_ATTEMPTS):
        size = _size(part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                if _take(response, part, show):
                    return
        except requests.RequestException as error:
            if _size(part) <= size:
                raise _MirrorError(_reason(error)) from error
    raise _MirrorError(f"broke off {_ATTEMPTS} times")


def _take(response: "requests.Response", part: BinaryIO, show: Callable[[int, int], None]) -> bool:
    """Append a response to `part`, and return True; or empty it, if the response is not of the requested bytes."""
    from requests import codes  # noqa: PLC0415 -- as in `_download`

    size, span = _size(part), response.headers.get("Content-Range", "")
    if size and response.status_code == codes.requested_range_not_satisfiable:
        is_complete = span == f"bytes */{size}"
    elif not response.ok:
        raise _MirrorError(f"answers {response.status_code}")
    else:
        is_whole = response.status_code != codes.partial_content
        is_complete = is_whole or span.startswith(f"bytes {size}-")
        if is_whole:
            part.truncate(0)
        if is_complete:
            _receive(response, part, show)
    if not is_complete:
        part.truncate(0)
    return is_complete


def _receive(response: "requests.Response", part: BinaryIO, show: Callable[[int, int], None]) -> None:
    size = _size(part)
    length = response.headers.get("Content-Length", "")
    total = size + int(length) if length.isdecimal() else 0
    for chunk in response.iter_content(_CHUNK):
        part.write(chunk)
        part.flush()
        size += len(chunk)
        if size > _LARGEST_DOWNLOAD:
            raise _MirrorError("sends more than 1 GB")
        show(size, total)


def _unpack(archive: Path, wanted: str) -> bytes:
    """Read one member of a .tar.gz by name, without extracting others or following links."""
    try:
        with gzip.open(archive) as packed:
            unpacked = packed.read(_LARGEST_UNPACKED + 1)
        if len(unpacked) > _LARGEST_UNPACKED:
            raise tarfile.ReadError(f"more than {_LARGEST_UNPACKED // 2**20} MB")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r|") as members:
            for member in itertools.islice(members, _MAX_MEMBERS):
                if member.name.removeprefix("./") != wanted:
                    continue
                if not member.isreg() or member.size > _LARGEST_MEMBER:
                    raise _MirrorError(f"has another archive: {wanted} in it is not a file of a few hundred KB")
                content = members.extractfile(member)
                assert content is not None
                return content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise _MirrorError(f"has another archive: it can't be unpacked ({error})") from error
    raise _MirrorError(f"has another archive: there is no {wanted} in it")


@contextlib.contextmanager
def _open_part(path: Path) -> Generator[BinaryIO]:
    """Open the partial download, for this process only."""
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
    from requests import exceptions  # noqa: PLC0415 -- as in `_download`

    if isinstance(error, exceptions.Timeout):
        return "doesn't answer"
    if isinstance(error, (exceptions.MissingSchema, exceptions.InvalidURL)):
        return "is not a URL"
    if isinstance(error, exceptions.InvalidSchema):
        return "is neither http nor https"
    return "can't be reached"
