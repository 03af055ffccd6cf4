"""The pictures that predict and features read: files, URLs, and those in shards."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from shards.format.images import (
    OPENCV_LIMITS,
    WEB_LIMITS,
    BadPicture,
    Pixels,
    SizeLimits,
    decode_picture,
    detect_format,
    inspect_picture,
    read_member,
)
from shards.format.index import Entries
from shards.format.outcomes import Status
from shards.format.text import find_file

_URL_LIMITS = SizeLimits(min_side=1, max_pixels=WEB_LIMITS.max_pixels)


class UnreadablePicture(Exception):  # noqa: N818 -- a result, not an error in the program
    """A picture can't be read; the message is the reason, for example "is too large: ..."."""


class PrivateAddress(UnreadablePicture):
    """The server of a URL, or of one to which it redirects, has an address that isn't public."""


class PictureFile(NamedTuple):
    """A picture in a file, of any format that OpenCV reads."""

    name: str

    def read(self) -> Pixels:
        """Return the decoded picture.

        Raises:
            UnreadablePicture: it can't be read.
        """
        try:
            body = find_file(self.name).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            raise UnreadablePicture(f"can't be read: {getattr(error, 'strerror', None) or error}") from error
        if not body:
            raise UnreadablePicture("is empty")
        try:
            return _decode_file(body)
        except BadPicture as error:
            raise UnreadablePicture(_explain(error, "a picture that OpenCV reads")) from error


@dataclasses.dataclass(frozen=True)
class FetchLimits:
    """What the answer to the request for a URL may take."""

    seconds: float = 30.0
    max_bytes: int = 32 * 2**20
    allow_private: bool = False  # whether the server may have an address that isn't public


class PictureUrl(NamedTuple):
    """A picture on the web, in a format of the web; its bytes are fetched by a Fetcher."""

    name: str

    def decode(self, body: bytes) -> Pixels:
        """Return the decoded response body.

        Raises:
            UnreadablePicture: it isn't a picture, or too large.
        """
        try:
            return inspect_picture(body, _URL_LIMITS)
        except BadPicture as error:
            raise UnreadablePicture(_explain(error, "a JPEG, PNG, GIF, WebP or BMP")) from error


@dataclasses.dataclass(frozen=True, slots=True)
class ShardPicture:
    """A picture in a tar of a shard directory."""

    entries: Entries
    row: int  # of `entries`

    @property
    def name(self) -> str:
        """The tar and the key."""
        return f"{self._tar}: {self.entries.key[self.row]}"

    @property
    def _tar(self) -> Path:
        return self.entries.root / self.entries.shard[self.row]

    def read(self) -> Pixels:
        """Return the decoded picture.

        Raises:
            UnreadablePicture: it can't be read.
        """
        try:
            with self._tar.open("rb") as tar:
                tar.seek(int(self.entries.offset[self.row]))
                body = tar.read(int(self.entries.length[self.row]))
        except OSError as error:
            raise UnreadablePicture(f"can't be read: {error.strerror}") from error
        try:
            return read_member(body, self.entries.format[self.row])
        except BadPicture as error:
            raise UnreadablePicture(f"is damaged: {error}; see: shards verify {self.entries.root}") from error


class NoPicture(NamedTuple):
    """An entry of a list or a folder that names no picture."""

    name: str
    reason: str

    def read(self) -> Pixels:
        """Raise the reason.

        Raises:
            UnreadablePicture: always.
        """
        raise UnreadablePicture(self.reason)


Picture = PictureFile | PictureUrl | ShardPicture | NoPicture


def _decode_file(body: bytes) -> Pixels:
    """Decode a picture in any format that OpenCV reads.

    Raises:
        BadPicture: it can't be read; the message is the cause.
    """
    if detect_format(body) is None:
        try:
            return decode_picture(body)
        except BadPicture as error:
            if error.status is Status.TOO_MANY_PIXELS:
                raise
    return inspect_picture(body, OPENCV_LIMITS)  # names the cause, but reads the formats of the web only


def _explain(error: BadPicture, readable: str) -> str:
    """Return why a picture can't be read; `readable` is what could be read."""
    if error.status is Status.TOO_MANY_PIXELS:
        return f"is too large: {error}; make it smaller"
    if error.status in {Status.NOT_AN_IMAGE, Status.BAD_ENCODING}:
        return f"is not {readable}: {error}"
    return f"is damaged or unsupported: {error}"


def is_web_url(location: str) -> bool:
    """Return whether a location is an http or https URL."""
    return location.lower().startswith(("http://", "https://"))


def picture_at(location: str, folder: Path = Path()) -> Picture:
    """Return the picture at a URL or a path, which may be relative to `folder`."""
    if is_web_url(location):
        return PictureUrl(location)
    return PictureFile(str(folder / location))
