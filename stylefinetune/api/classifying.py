"""Classifies pictures from Python."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from shards.format.images import Pixels
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.losses.loss import to_probabilities
from stylefinetune.prediction.inputs import open_inputs
from stylefinetune.prediction.loader import PictureLoader, fit_picture
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.pictures import FetchLimits, PictureFile, UnreadablePicture

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says of a picture."""

    name: str  # its path or URL
    classes: list[tuple[str, float]]  # names and probabilities, the most probable first; empty if it can't be read
    error: str | None = None  # why it can't be read


class Classifier:
    """A trained network with everything that it needs from a picture to its classes.

    Attributes:
        network: from [B, 3, H, W], as `preprocess` makes them, to logits [B, classes]; in evaluation mode.
        classes: class names in label order.
    """

    def __init__(self, network: PictureNetwork) -> None:
        self._network = network
        self.network: nn.Module = network.net
        self.classes: list[str] = network.saved.progress.classes

    def preprocess(self, picture: "str | Path | Image | np.ndarray[Any, Any]") -> torch.Tensor:
        """Return the network's input for a picture, float[3, H, W], on the network's device.

        Args:
            picture: a file's path, a PIL image, or uint8[height, width, 3], RGB.

        Raises:
            UserError: a file can't be read, or an array has another shape.
        """
        return self._network.preprocess(self._fit(_to_pixels(picture)))[0]

    def __call__(
        self, picture: "str | Path | Image | np.ndarray[Any, Any]", top: int | None = None
    ) -> list[tuple[str, float]]:
        """Return names and probabilities of the classes, the most probable first; of all, or of the `top` ones.

        Raises:
            UserError: as above, or `top` is below 1, or the network computes scores that aren't finite.
        """
        if top is not None and top < 1:
            raise UserError(f"top is {top}; it must be at least 1")
        logits = self._network(self._fit(_to_pixels(picture)))
        return _most_probable(self._network, logits, top or len(self.classes))[0]

    def _fit(self, pixels: Pixels) -> torch.Tensor:
        """Return a picture of the size that the network reads, uint8[1, H, W, 3]."""
        fitted = np.empty((1, *self._network.size, 3), np.uint8)
        fit_picture(pixels, self._network.fit, fitted[0])
        return torch.from_numpy(fitted)


def load(checkpoint: str | Path, *, ema: bool, device: str | torch.device) -> Classifier:
    """See `stylefinetune.load`."""
    return Classifier(_open(checkpoint, ema=ema, device=torch.device(device)))


def predict(
    checkpoint: str | Path,
    inputs: str | Path | Iterable[str | Path],
    *,
    top: int,
    crops: int,
    flip: bool,
    ema: bool,
    batch_size: int | None,
) -> Iterator[Prediction]:
    """See `stylefinetune.predict`."""
    if crops not in (1, 10) or top < 1:
        raise UserError(f"crops is {crops} and top is {top}; crops must be 1 or 10, and top at least 1")
    world = World.alone()
    network = _open(checkpoint, ema=ema, device=world.device, crops=crops, flip=flip)
    each = [inputs] if isinstance(inputs, str | Path) else inputs
    found = open_inputs(map(str, each), world, split=None, column=None)
    size = batch_size or network.saved.config.data.phase(training=False).batch_size
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    with PictureLoader(network.size, network.fit, size, threads, FetchLimits()) as loader:
        for batch in loader.load(picture for one in found for picture in one.find()):
            if batch.names:
                classes = _most_probable(network, network(batch.pictures), top)
                yield from (Prediction(name, of_one) for name, of_one in zip(batch.names, classes, strict=True))
            yield from (Prediction(name, [], reason) for name, reason in batch.failed)


def _open(
    checkpoint: str | Path, *, ema: bool, device: torch.device, crops: int = 1, flip: bool = False
) -> PictureNetwork:
    return PictureNetwork(read_checkpoint(Path(checkpoint)).with_weights(ema=ema), device, crops=crops, flip=flip)


def _to_pixels(picture: "str | Path | Image | np.ndarray[Any, Any]") -> Pixels:
    if isinstance(picture, str | Path):
        try:
            return PictureFile(str(picture)).read()
        except UnreadablePicture as error:
            raise UserError(f"{picture} {error}") from error
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(f"a picture is {picture.dtype}{list(picture.shape)}; uint8[height, width, 3] is needed")
        return np.ascontiguousarray(picture)
    from PIL import Image, ImageOps  # noqa: PLC0415 -- few callers have such pictures

    upright = ImageOps.exif_transpose(picture)  # as a picture is read from its path
    if upright.mode.startswith("I;16"):  # Pillow would cut values off at 255
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return np.asarray(upright.convert("RGB"))


def _most_probable(network: PictureNetwork, logits: torch.Tensor, top: int) -> list[list[tuple[str, float]]]:
    """Return names and probabilities of the classes of each picture, the most probable first."""
    names, loss = network.saved.progress.classes, network.saved.config.train.loss
    values, labels = to_probabilities(logits, loss).topk(min(top, len(names)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return [[(names[label], value) for label, value in zip(*one, strict=True)] for one in pairs]
