"""Classifies the bytes of pictures, and pictures at URLs, for requests that are handled at the same time."""

import asyncio
import base64
import contextlib
import dataclasses
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch

from shards.format.images import BadPicture, Pixels, SizeLimits, inspect_picture
from shards.format.outcomes import Status
from stylefinetune.config.train import LossFunction
from stylefinetune.errors import UserError, is_out_of_memory
from stylefinetune.evaluation.thumbnails import encode_thumbnail
from stylefinetune.losses.loss import to_probabilities
from stylefinetune.prediction.fetch import Fetcher
from stylefinetune.prediction.loader import fit_picture
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.pictures import FetchLimits, PrivateAddress, UnreadablePicture, is_web_url
from stylefinetune.serve.batching import BatchingNetwork
from stylefinetune.serve.errors import ApiError, busy_error
from stylefinetune.serve.settings import Settings

_STATUS = {Status.NOT_AN_IMAGE: 415, Status.TOO_MANY_PIXELS: 413}  # of other bad pictures: 422
_PROBLEM = {
    Status.NOT_AN_IMAGE: "this is not a JPEG, PNG, GIF, WebP or BMP",
    Status.TOO_MANY_PIXELS: "the picture is too large",
}
_THUMBNAIL_SIDE = 320
_LONGEST_URL = 4096


@dataclasses.dataclass(frozen=True)
class _Decoded:
    pixels: Pixels  # of the size that the network reads
    thumbnail: str | None  # a data: URL


class PictureClassifier:
    """Decodes pictures in threads, and classifies them in batches. It is a context manager."""

    def __init__(self, network: PictureNetwork, settings: Settings) -> None:
        self.classes = network.saved.progress.classes
        self._network = network
        self._settings = settings
        self._loss: LossFunction = network.saved.config.train.loss
        self._compute(torch.zeros((1, *network.size, 3), dtype=torch.uint8))  # fails now rather than at a request
        self._batches = BatchingNetwork(self._compute, settings.max_batch, settings.max_wait / 1000)
        self._pool = ThreadPoolExecutor(settings.workers, "decode", _silence_opencv)
        limits = FetchLimits(settings.timeout, settings.max_bytes, settings.allow_private)
        self._fetcher = Fetcher(limits, self._pool) if settings.url_fetch else None
        self._pending = 0  # pictures that are decoded or wait for the network

    def __enter__(self) -> "PictureClassifier":
        return self

    def __exit__(self, *_: object) -> None:
        if self._fetcher is not None:
            self._fetcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._batches.close()

    async def classify(self, body: bytes, top: int) -> list[dict[str, Any]]:
        """Return the most probable classes of a picture, as predict's JSON lines have them.

        Raises:
            ApiError: it is no picture, or too many pictures wait.
        """
        with self._place():
            loop = asyncio.get_running_loop()
            decoded = await loop.run_in_executor(self._pool, self._decode, body, False)  # noqa: FBT003 -- by position
            return await self._most_probable(decoded.pixels, top)

    async def fetch_and_classify(
        self, url: str, top: int, *, with_thumbnail: bool
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return the same for the picture at a URL, and the picture as a small data: URL.

        Raises:
            ApiError: also if it can't be fetched.
        """
        if self._fetcher is None:
            raise ApiError(403, "this server doesn't fetch URLs; send the picture itself")
        if not is_web_url(url) or len(url) > _LONGEST_URL:
            raise ApiError(
                400, f"the URL must begin with http:// or https://, and have at most {_LONGEST_URL} characters"
            )
        with self._place():
            fetched = self._fetcher.submit(url, lambda body: self._decode(body, with_thumbnail))
            try:
                async with asyncio.timeout(self._settings.timeout):
                    decoded = await asyncio.wrap_future(fetched)
            except TimeoutError as error:
                raise ApiError(504, f"no complete answer within {self._settings.timeout:g} s") from error
            except PrivateAddress as error:
                raise ApiError(403, "the URL, or one that it redirects to, has no public address") from error
            except UnreadablePicture as error:
                raise ApiError(502, f"the URL {error}") from error
            return await self._most_probable(decoded.pixels, top), decoded.thumbnail

    @contextlib.contextmanager
    def _place(self) -> Generator[None]:
        """Count a picture while it is worked on; called in the thread of the event loop only."""
        if self._pending >= self._settings.queue:
            raise busy_error(f"{self._pending} pictures are waiting; try again")
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    def _decode(self, body: bytes, with_thumbnail: bool) -> _Decoded:  # noqa: FBT001 -- called by position
        """Return a picture as the network reads it; called in the threads of the pool."""
        out = np.empty((*self._network.size, 3), np.uint8)
        try:
            pixels = inspect_picture(body, SizeLimits(1, self._settings.max_pixels))
            fit_picture(pixels, self._network.fit, out)
        except BadPicture as error:
            problem = _PROBLEM.get(error.status, "the picture can't be read")
            raise ApiError(_STATUS.get(error.status, 422), f"{problem}: {error}") from error
        except MemoryError as error:
            raise busy_error("the picture needs more memory than there is") from error
        jpeg = encode_thumbnail(pixels, _THUMBNAIL_SIDE) if with_thumbnail else None
        return _Decoded(out, f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else None)

    async def _most_probable(self, pixels: Pixels, top: int) -> list[dict[str, Any]]:
        try:
            row = await asyncio.wrap_future(self._batches.submit(pixels))
        except UserError as error:
            raise ApiError(500, str(error)) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise busy_error("the network needs more memory than there is; try again") from error
        values, labels = row.topk(min(top, len(self.classes)))
        return [
            {"class": self.classes[label], "label": label, "probability": round(value, 7)}
            for label, value in zip(labels.tolist(), values.tolist(), strict=True)
        ]

    def _compute(self, pictures: torch.Tensor) -> torch.Tensor:
        return to_probabilities(self._network(pictures), self._loss).cpu()


def _silence_opencv() -> None:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the answers name the damaged pictures
