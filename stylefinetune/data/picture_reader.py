"""Reads the pictures of a split from its shards into memory that the caller provides."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shards.format.images import BadPicture, Pixels, npy_header, read_member, resize_picture
from shards.format.index import Entries
from stylefinetune.data.staging.stream_reader import close_removed, open_shard
from stylefinetune.errors import DataError, UserError

MAX_OPEN_SHARDS = 128


class Fit(Protocol):
    """Makes pictures of any size fit into memory of one size."""

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of the result."""
        ...

    @property
    def is_fixed(self) -> bool:
        """Whether the result does not depend on the position."""
        ...

    def __call__(self, pixels: Pixels, position: int, out: Pixels) -> None:
        """Write the picture at `position` of the run to `out`, uint8[H, W, 3]; equal arguments give equal pixels."""
        ...


class PictureReader:
    """Reads pictures by their rows in the index.

    Args:
        entries: the index entries of the split.
        size: (height, width) of the result.
        folder: folder of a copy of the shards to read from; messages still name the original.
        fit: makes pictures fit into the size; by default, they are resized as in Caffe.
    """

    def __init__(self, entries: Entries, size: tuple[int, int], folder: Path | None, fit: Fit | None = None) -> None:
        self._entries = entries
        self._size = size
        self._fit = fit
        self._folder = folder or entries.root
        self._files: dict[int, int] = {}  # descriptor by the number of the shard
        self._npy_header = bytearray(npy_header(*size))
        self._header = bytearray(len(self._npy_header))  # of the member that was read last

    def read(
        self, rows: npt.NDArray[np.int64], pictures: npt.NDArray[np.uint8], positions: Sequence[int] = ()
    ) -> list[int]:
        """Read the pictures of `rows` into `pictures`, uint8[b, H, W, 3]; `fit` needs their positions in the run.

        Returns:
            The places in `rows` of pictures that can't be decoded; black ones replace them.

        Raises:
            UserError: a shard can't be read, or stored pixels have another size.
        """
        corrupt: list[int] = []
        shards, offsets, lengths = (
            column[rows].tolist() for column in (self._entries.shard.codes, self._entries.offset, self._entries.length)
        )
        npy_length = len(self._npy_header) + self._size[0] * self._size[1] * 3
        for place, (picture, shard, offset, length) in enumerate(zip(pictures, shards, offsets, lengths, strict=True)):
            try:
                if self._fit:
                    self._fit(self._read_member(int(rows[place])), positions[place], picture)
                elif length != npy_length or not self._read_pixels(self._open_shard(shard), offset, picture):
                    self._read_and_resize(int(rows[place]), picture)
            except BadPicture:
                picture[:] = 0
                corrupt.append(place)
            except OSError as error:
                raise self._read_error(int(rows[place]), error) from error
        return corrupt

    def location(self, row: int) -> str:
        """Return the shard and the key of a row's picture."""
        return f"{self._entries.root / self._entries.shard[row]}: {self._entries.key[row]}"

    def _read_error(self, row: int, error: OSError) -> DataError:
        copy = "" if self._folder == self._entries.root else f" from its copy in {self._folder}"
        is_limit = error.errno == errno.EMFILE
        remedy = "raise the limit of open files (ulimit -n)" if is_limit else "check that the shard exists"
        return DataError(f"{self.location(row)} can't be read{copy} ({error.strerror}); {remedy}")

    def _read_pixels(self, file: int, offset: int, picture: Pixels) -> bool:
        """Read pixels that are stored in the wanted size, straight into `picture`; return whether they are."""
        length = os.preadv(file, [self._header, picture.data], offset)
        return length == len(self._header) + picture.nbytes and self._header == self._npy_header

    def _read_and_resize(self, row: int, picture: Pixels) -> None:
        """Read a picture in any format, and resize it."""
        pixels = self._read_member(row)
        if pixels.shape == picture.shape:
            picture[:] = pixels
        elif self._entries.format[row] == "npy":
            height, width, _ = pixels.shape
            raise UserError(f"{self.location(row)} is stored as {height}x{width} pixels; set data.image_size to that")
        else:
            resize_picture(pixels, *self._size, out=picture)

    def _read_member(self, row: int) -> Pixels:
        """Read a picture in any format."""
        entries = self._entries
        length = int(entries.length[row])
        body = os.pread(self._open_shard(int(entries.shard.codes[row])), length, int(entries.offset[row]))
        if len(body) < length:  # the shard is damaged, not this picture alone
            raise OSError(errno.ENODATA, "the shard has become shorter than the index says")
        return read_member(body, entries.format[row])

    def _open_shard(self, shard: int) -> int:
        if shard not in self._files:
            close_removed(self._folder, self._files)
            if len(self._files) >= MAX_OPEN_SHARDS:
                for descriptor in self._files.values():
                    os.close(descriptor)
                self._files.clear()
            self._files[shard] = open_shard(self._folder, self._entries.shard.distinct[shard])
        return self._files[shard]
