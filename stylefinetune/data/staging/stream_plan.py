"""Says which shards each part of a run needs, from the order of its pictures."""

import math
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from shards.format.columns import Names
from shards.format.order import DataOrder

_REMEMBERED = 1000  # parts


class StreamPlan:
    """The shards of the parts of a run, in the order of their first use.

    A part is about as many pictures as a shard has, and at least a batch.

    Args:
        order: the order of the pictures.
        shards: the shard of each row.
        batch_size: pictures of a batch, over all ranks.
        sizes: bytes of each shard.
    """

    def __init__(self, order: DataOrder, shards: Names, batch_size: int, sizes: dict[str, int]) -> None:
        self.part_size = max(batch_size, math.ceil(order.rows / len(shards.distinct)))
        self._order = order
        self._shards = shards
        self._sizes = sizes
        self._parts: OrderedDict[int, list[str]] = OrderedDict()

    def shards_of(self, part: int) -> list[str]:
        """Return the shards of the pictures of a part."""
        if part not in self._parts:
            positions = np.arange(part * self.part_size, (part + 1) * self.part_size)
            codes, first = np.unique(self._shards.codes[self._order.rows_at(positions)], return_index=True)
            self._parts[part] = [self._shards.distinct[code] for code in codes[np.argsort(first)]]
            if len(self._parts) > _REMEMBERED:
                self._parts.popitem(last=False)
        return self._parts[part]

    def shards_from(self, position: int, limit: int, stop: int) -> list[str]:
        """Return the shards that are read from a position on, until they have `limit` bytes or the run stops.

        A batch may begin in one part and end in the next, so the shards of two parts are always among them.
        """
        first, last = position // self.part_size, (max(stop, 1) - 1) // self.part_size
        chosen: dict[str, None] = {}
        total = 0
        for part in range(first, last + 1):
            for shard in self.shards_of(part):
                if shard in chosen:
                    continue
                total += self._sizes[shard]
                if total > limit and part > first + 1:
                    return list(chosen)
                chosen[shard] = None
            if len(chosen) == len(self._sizes):
                break
        return list(chosen)

    def needed_bytes(self) -> int:
        """Return the bytes of the shards that two consecutive parts of the first epoch need, at most."""
        parts = range(math.ceil(self._order.rows / self.part_size))
        pairs: Iterator[set[str]] = ({*self.shards_of(part), *self.shards_of(part + 1)} for part in parts)
        return max(sum(self._sizes[shard] for shard in pair) for pair in pairs)
