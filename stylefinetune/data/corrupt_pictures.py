"""Keeps count of the pictures of a split that can't be decoded, over all ranks, and names each once."""

from collections.abc import Iterable

import torch

from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.distributed.world import World
from stylefinetune.errors import CorruptError


class CorruptPictures:
    """The corrupt pictures that were met so far; each rank holds those of its own slices until somebody asks.

    Args:
        pictures: the split.
        share: of it that may be corrupt.
        rows: known already, of a run that is resumed.
    """

    def __init__(self, pictures: PictureDataset, share: float, rows: list[int]) -> None:
        self._pictures = pictures
        self._share = share
        self._known = set(rows)
        self._fresh: set[int] = set()

    def add_all(self, batches: Iterable[Batch]) -> None:
        """Notes what batches of this rank lack."""
        for batch in batches:
            self._fresh.update(set(batch.corrupt) - self._known)

    def gather(self, world: World) -> list[str]:
        """Returns a line for each picture that no rank had met before; collective.

        Raises:
            CorruptError: they are more than the share allows; the same on every rank, however many there are.
        """
        if world.sum(torch.tensor(len(self._fresh))).item() == 0:
            return []
        total = self._pictures.order.rows
        met = torch.zeros(total, dtype=torch.int32)
        met[sorted(self._fresh)] = 1
        fresh = torch.nonzero(world.sum(met)).flatten().tolist()
        self._known.update(fresh)
        self._fresh.clear()
        count = len(self._known)
        if count > self._share * total:
            raise CorruptError(
                f"{count} of {total} pictures are corrupt, the last of them {self._pictures.name(fresh[-1])}; "
                f"restore them (python -m shards verify names what is damaged), or allow more with data.max_corrupt "
                f"(now {self._share:g})"
            )
        return [f"{self._pictures.name(row)} is corrupt and left out ({count} of {total} pictures)" for row in fresh]

    @property
    def rows(self) -> list[int]:
        """The rows of all that were gathered."""
        return sorted(self._known)
