"""Gives batches of pictures of which each rank's device holds a share; the ranks send each other what they need.

With 8 ranks, each holds an eighth of the pictures, and decodes only these before the first iteration. A picture of
256x256 pixels crosses the network between the devices as 196,608 bytes.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from shards.format.order import RankBatchSampler, rank_slice
from stylefinetune.data.dataset import Batch, BatchColumns
from stylefinetune.data.resident.pictures import ResidentPictures
from stylefinetune.distributed.world import World


class SharedLoader:
    """Gives batches like `BatchLoader`; every rank has to take as many as the others, in the same order.

    Args:
        resident: the pictures of this rank's share, `rank_slice` of the split's rows, decoded.
        world: the ranks; collective.
    """

    def __init__(self, resident: ResidentPictures, world: World) -> None:
        self._resident = resident
        self._world = world
        shares = [rank_slice(len(resident.dataset.entries), rank, world.size) for rank in range(world.size)]
        self._stops = np.array([share.stop for share in shares])
        resident.corrupt = world.sum(torch.from_numpy(resident.corrupt).int()).bool().cpu().numpy()

    def load(self, sampler: RankBatchSampler) -> Iterator[Batch]:
        """Return an iterator over this rank's slices of the batches, in order; each step is collective."""
        ranks = [dataclasses.replace(sampler, rank=rank) for rank in range(self._world.size)]
        return map(self._exchange, sampler.sizes(), *ranks)

    def _exchange(self, size: int, *slices: Sequence[int]) -> Batch:
        """Send the other ranks the pictures of their slices of a batch, and return this rank's batch."""
        pixels, rank = self._resident.pixels, self._world.rank
        positions = np.concatenate([np.array(each, np.int64) for each in slices])
        rows = self._resident.dataset.order.rows_at(positions)
        readers = np.repeat(np.arange(len(slices)), [len(each) for each in slices])
        owners = np.searchsorted(self._stops, rows, side="right")
        is_sent, is_read = owners == rank, readers == rank

        sent = torch.from_numpy(rows[is_sent] - self._resident.rows.start).to(pixels.device)
        received = self._world.exchange(
            pixels[sent], self._count_by_rank(readers[is_sent]), self._count_by_rank(owners[is_read])
        )
        # The received pictures are ordered by owner, and those of an owner by position.
        places = np.argsort(np.argsort(owners[is_read], kind="stable"))
        pictures = received[torch.from_numpy(places).to(pixels.device)]
        return self._batch(pictures, positions[is_read], rows[is_read], size)

    def _count_by_rank(self, ranks: npt.NDArray[np.int64]) -> list[int]:
        return np.bincount(ranks, minlength=self._world.size).tolist()

    def _batch(
        self, pictures: torch.Tensor, positions: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], size: int
    ) -> Batch:
        dataset = self._resident.dataset
        numbers = np.stack([positions, self._resident.labels(rows), *dataset.draw_crops(positions)])
        columns = BatchColumns(numbers.tobytes(), self._resident.corrupt_of(rows))
        return columns.with_pictures(pictures, size, dataset.input_size)
