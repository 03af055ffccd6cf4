"""A trained network with everything that it needs from a picture to its scores."""

import dataclasses

import torch

from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.data.augmentation.fit import build_fit
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops
from stylefinetune.errors import UserError
from stylefinetune.evaluation.views import average_views


class PictureNetwork:
    """Computes the logits of pictures that a PictureLoader has read with this `size` and `fit`.

    Args:
        saved: the checkpoint.
        device: where the network is.
        crops: crops of each picture to average, 1 or 10, see average_views.
        flip: average each crop with its mirror image.
    """

    def __init__(self, saved: Checkpoint, device: torch.device, *, crops: int = 1, flip: bool = False) -> None:
        self.saved = saved
        self.input_size = (saved.progress.input_size[0], saved.progress.input_size[1])
        self.net, self._transform = saved.build_network(device)
        self._crops = crops
        self._flip = flip
        phase = saved.config.data.phase(training=False)
        if crops > 1 and phase.resize == "shorter_side" and phase.image_size:
            phase = dataclasses.replace(phase, crop_size=phase.image_size[0])  # the views are cut from the whole square
        self.fit = build_fit(phase, saved.progress.seed)
        self.size = self.fit.size if self.fit else (saved.progress.picture_size[0], saved.progress.picture_size[1])

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the logits of uint8[b, H, W, 3] pictures, float[b, classes].

        Raises:
            UserError: a logit is not finite.
        """
        batch = _centre_crops(pictures, self.input_size)
        if self._crops == 1 and not self._flip:
            logits = self._forward(batch)
        else:
            loss = self.saved.config.train.loss
            logits = average_views(self._forward, batch, crops=self._crops, mirror=self._flip, loss=loss)
        if not logits.isfinite().all():
            raise UserError(f"{self.saved.path} computes scores that aren't finite; choose an earlier checkpoint")
        return logits

    def preprocess(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the network's input for the centre crops of uint8[b, H, W, 3] pictures, float[b, 3, h, w]."""
        batch = _centre_crops(pictures, self.input_size)
        return self._transform(batch.pictures, batch.crops)

    def _forward(self, batch: Batch) -> torch.Tensor:
        return self.net(self._transform(batch.pictures, batch.crops))


def _centre_crops(pictures: torch.Tensor, size: tuple[int, int]) -> Batch:
    """Return the pictures with their crops at the centre."""
    count, height, width, _ = pictures.shape
    crops = Crops(
        top=torch.full((count,), (height - size[0]) // 2),
        left=torch.full((count,), (width - size[1]) // 2),
        mirror=torch.zeros(count, dtype=torch.bool),
        size=size,
    )
    numbers = torch.arange(count)
    return Batch(pictures, torch.zeros_like(numbers), crops, numbers, count)
