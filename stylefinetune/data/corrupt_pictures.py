"""Counts the pictures of a split that can't be decoded, over all ranks, and reports each once."""

from collections.abc import Iterable

import torch

from stylefinetune.data.dataset import Batch, PictureDataset
from stylefinetune.distributed.world import World
from stylefinetune.errors import CorruptError


class CorruptPictures:
    """The corrupt pictures found so far; between two calls of `gather` each rank knows only those in its slices.

    Up to `max_fraction` of the split may be corrupt. `rows` were found before the run was resumed.
    """

    def __init__(self, pictures: PictureDataset, max_fraction: float, rows: list[int]) -> None:
        self._pictures = pictures
        self._max_fraction = max_fraction
        self._known = set(rows)
        self._new: set[int] = set()

    def add_batches(self, batches: Iterable[Batch]) -> None:
        """Add the corrupt pictures of this rank's batches."""
        for batch in batches:
            self._new.update(set(batch.corrupt) - self._known)

    def gather(self, world: World) -> list[str]:
        """Return a line for each picture that any rank has found since the last call; collective.

        Raises:
            CorruptError: the fraction is exceeded, on every rank alike and for any number of ranks.
        """
        if world.sum(torch.tensor(len(self._new))).item() == 0:
            return []
        total = self._pictures.order.rows
        is_corrupt = torch.zeros(total, dtype=torch.int32)
        is_corrupt[sorted(self._new)] = 1
        new = torch.nonzero(world.sum(is_corrupt)).flatten().tolist()
        self._known.update(new)
        self._new.clear()
        count = len(self._known)
        if count > self._max_fraction * total:
            verb = "is" if count == 1 else "are"
            raise CorruptError(
                f"{count} of {total} pictures {verb} corrupt, the last one is {self._pictures.location(new[-1])}; "
                "restore them (shards verify DIR lists the damage), or raise data.max_corrupt "
                f"(now {self._max_fraction:g})"
            )
        return [f"{self._pictures.location(row)} is corrupt and skipped ({count} of {total} pictures)" for row in new]

    @property
    def rows(self) -> list[int]:
        """The rows of all gathered pictures, ascending."""
        return sorted(self._known)
