"""Reads pictures in threads, batch by batch in order, so that few are in memory at a time."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from shards.format.images import Pixels, resize_picture
from stylefinetune.data.picture_reader import Fit
from stylefinetune.prediction.pictures import FetchLimits, Picture, PictureUrl, UnreadablePicture

if TYPE_CHECKING:
    from stylefinetune.prediction.fetch import Fetcher

_AHEAD = 2  # batches that are being read while one is used


@dataclasses.dataclass(frozen=True)
class PictureBatch:
    """The pictures of a batch that could be read: b of them, possibly 0."""

    names: list[str]  # [b]
    pictures: torch.Tensor  # uint8[b, H, W, 3], RGB
    failed: list[tuple[str, str]]  # name and reason of the others


class PictureLoader:
    """Reads pictures of any size, and makes them fit into one size.

    OpenCV and Pillow release Python's lock, so that threads decode in parallel. It is a context manager, at whose end
    what is not finished is cancelled.

    Args:
        size: (height, width) of the result.
        fit: makes a picture fit into it; None resizes as in Caffe.
        batch_size: pictures of a batch.
        workers: threads that read and decode.
        limits: of what is fetched from the web.
    """

    def __init__(
        self, size: tuple[int, int], fit: Fit | None, batch_size: int, workers: int, limits: FetchLimits
    ) -> None:
        self._size = size
        self._fit = fit
        self._batch_size = batch_size
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._limits = limits
        self._fetcher: Fetcher | None = None

    def __enter__(self) -> "PictureLoader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._fetcher is not None:
            self._fetcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def load(self, pictures: Iterable[Picture]) -> Iterator[PictureBatch]:
        """Yield the pictures in their order."""
        waiting: collections.deque[_Reading] = collections.deque()
        rest = iter(pictures)
        while part := list(itertools.islice(rest, self._batch_size)):
            waiting.append(self._start(part))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().wait()
        while waiting:
            yield waiting.popleft().wait()

    def _start(self, part: list[Picture]) -> "_Reading":
        pixels = np.empty((len(part), *self._size, 3), np.uint8)
        return _Reading(part, pixels, [self._submit(*each) for each in zip(part, pixels, strict=True)])

    def _submit(self, picture: Picture, out: Pixels) -> Future[None]:
        if isinstance(picture, PictureUrl):
            if self._fetcher is None:
                self._fetcher = self._open_fetcher()
            return self._fetcher.submit(picture.name, lambda body: self._fill(lambda: picture.decode(body), out))
        return self._pool.submit(self._fill, picture.read, out)

    def _open_fetcher(self) -> "Fetcher":
        from stylefinetune.prediction.fetch import Fetcher  # noqa: PLC0415 -- aiohttp takes 0.2 s, and few need it

        return Fetcher(self._limits, self._pool)

    def _fill(self, read: Callable[[], Pixels], out: Pixels) -> None:
        """Read a picture into `out`, uint8[H, W, 3]."""
        try:
            fit_picture(read(), self._fit, out)
        except MemoryError as error:
            raise UnreadablePicture("needs more memory than there is") from error


def fit_picture(pixels: Pixels, fit: Fit | None, out: Pixels) -> None:
    """Write a picture of any size to `out`, uint8[H, W, 3], by `fit`, or resized as in Caffe."""
    if fit is not None:
        fit(pixels, 0, out)
    elif pixels.shape == out.shape:
        out[:] = pixels
    else:
        resize_picture(pixels, *out.shape[:2], out=out)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A batch that is being read."""

    part: list[Picture]
    pixels: Pixels  # [b, H, W, 3]
    futures: list[Future[None]]

    def wait(self) -> PictureBatch:
        """Wait until all pictures are read."""
        names: list[str] = []
        good: list[int] = []
        failed: list[tuple[str, str]] = []
        for place, (picture, future) in enumerate(zip(self.part, self.futures, strict=True)):
            try:
                future.result()
            except UnreadablePicture as error:
                failed.append((picture.name, str(error)))
            else:
                names.append(picture.name)
                good.append(place)
        pictures = torch.from_numpy(self.pixels if not failed else self.pixels[good])
        return PictureBatch(names, pictures, failed)
