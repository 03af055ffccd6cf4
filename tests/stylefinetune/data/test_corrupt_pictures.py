import dataclasses

import pytest
import torch

from stylefinetune.config.data import DataConfig
from stylefinetune.data.corrupt_pictures import CorruptPictures
from stylefinetune.data.dataset import Batch, PictureDataset, open_index, open_split
from stylefinetune.data.transforms import Crops
from stylefinetune.distributed.world import World
from stylefinetune.errors import CorruptError

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
NONE = torch.zeros(0, dtype=torch.int64)
BATCH = Batch(torch.zeros(0, 48, 48, 3), NONE, Crops(NONE, NONE, NONE.bool(), (43, 43)), NONE, 10)


class Joined(World):
    """A rank of two; the other has found the corrupt rows in `theirs`."""

    theirs = frozenset()

    def sum(self, values):
        if values.ndim == 0:
            return values + len(self.theirs)
        return values + torch.tensor([row in self.theirs for row in range(len(values))], dtype=torch.int32)


@pytest.fixture
def split(pixel_shards):
    data = DataConfig(shards=str(pixel_shards), image_size=48, crop_size=43, shuffle=False)
    return PictureDataset(open_split(open_index(data), "train"), data.phase(training=True), seed=1)


def test_each_corrupt_picture_is_reported_once(split):
    corrupt = CorruptPictures(split, 0.1, [7])
    corrupt.add_batches([BATCH, dataclasses.replace(BATCH, corrupt=(3, 7)), dataclasses.replace(BATCH, corrupt=(3,))])
    assert corrupt.gather(ALONE) == [f"{split.location(3)} is corrupt and skipped (2 of 41 pictures)"]
    corrupt.add_batches([dataclasses.replace(BATCH, corrupt=(3,))])
    assert corrupt.gather(ALONE) == []
    assert corrupt.rows == [3, 7]


def test_corrupt_pictures_of_other_ranks_are_reported(split):
    corrupt, joined = CorruptPictures(split, 0.1, []), Joined(0, 2, torch.device("cpu"))
    joined.__class__.theirs = frozenset({3, 5})
    corrupt.add_batches([dataclasses.replace(BATCH, corrupt=(3,))])
    assert [line.split(" is ")[0] for line in corrupt.gather(joined)] == [split.location(3), split.location(5)]
    assert corrupt.rows == [3, 5]


def test_exceeding_max_corrupt_is_an_error(split):
    corrupt = CorruptPictures(split, 2 / 41, [])
    corrupt.add_batches([dataclasses.replace(BATCH, corrupt=(0, 1))])
    assert len(corrupt.gather(ALONE)) == 2
    corrupt.add_batches([dataclasses.replace(BATCH, corrupt=(40,))])
    with pytest.raises(
        CorruptError, match=r"3 of 41 pictures are corrupt, the last one is .*: \S+; restore them"
    ) as error:
        corrupt.gather(ALONE)
    assert split.location(40) in str(error.value)
