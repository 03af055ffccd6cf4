import shutil

import numpy as np
import pytest
import torch

from stylefinetune.data.resident.pictures import resident_bytes
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.errors import DataError
from tests.stylefinetune.data.loading import open_pictures
from tests.stylefinetune.data.resident.comparing import decode


def test_several_processes_may_decode(pixel_shards):
    dataset = open_pictures(pixel_shards)
    one, two = (decode(dataset, workers=workers) for workers in (0, 2))
    assert torch.equal(one.pixels, two.pixels)


def test_some_rows_are_a_part_of_all(damaged_shards):
    dataset = open_pictures(damaged_shards)
    all_rows, some = decode(dataset), decode(dataset, slice(20, 33))
    assert torch.equal(some.pixels, all_rows.pixels[20:33])
    assert (np.flatnonzero(all_rows.corrupt).tolist(), np.flatnonzero(some.corrupt).tolist()) == ([3, 30], [30])
    assert some.labels(np.array([29, 30, 31])).tolist()[1] == CORRUPT_LABEL
    assert some.corrupt_of(np.array([29, 30, 31])) == (30,)


def test_the_memory_is_that_of_the_pixels(pixel_shards):
    dataset = open_pictures(pixel_shards)
    assert resident_bytes(dataset, 41) == decode(dataset).pixels.nbytes == 41 * 48 * 48 * 3


def test_a_shard_that_is_missing_is_a_data_error(original_shards, tmp_path):
    shards = tmp_path / "gone"
    shutil.copytree(original_shards, shards)
    dataset = open_pictures(shards)
    shutil.rmtree(shards / "train")
    with pytest.raises(DataError, match=r"00000\.tar: \S+ can't be read"):
        decode(dataset)
