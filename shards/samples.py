"""WebDataset's form of a tar: each sample some members with the key before their first dot, here with known places."""

import io
import tarfile
from collections.abc import Mapping
from types import TracebackType
from typing import BinaryIO

_MODE = 0o444


class SampleWriter:
    """Writes samples to a tar, within a `with`; equal samples make equal bytes, which name no user and no time.

    Source: the WebDataset format, https://github.com/webdataset/webdataset.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Begins a tar in an empty file."""
        self._file = file
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 -- a `with` of ours

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def write(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Appends a sample.

        Args:
            key: of the sample, without a dot.
            members: their bytes by extension.

        Returns:
            Where in the file each member's bytes begin, by extension.
        """
        places: dict[str, int] = {}
        for extension, body in sorted(members.items()):
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size, header.mode = len(body), _MODE
            self._tar.addfile(header, io.BytesIO(body))
            places[extension] = self._file.tell() - -(-len(body) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return places
