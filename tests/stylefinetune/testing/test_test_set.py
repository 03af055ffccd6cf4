import dataclasses

import pytest
import torch

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.errors import UserError
from stylefinetune.testing.test_set import TestSet, Views


def test_the_pictures_are_those_of_the_run_or_of_other_shards(trained, pixel_shards):
    saved = read_checkpoint(trained)
    assert len(TestSet.open(saved).pictures.entries) == 11
    assert len(TestSet.open(saved, str(pixel_shards), "train").pictures.entries) == 41
    with pytest.raises(UserError, match="no pictures of split 'val'"):
        TestSet.open(saved, split="val")


def test_pictures_of_another_size_than_the_mean_picture_are_refused(trained, pixel_shards):
    saved = read_checkpoint(trained)
    larger = dataclasses.replace(saved, means=(saved.means[0], torch.zeros(64, 64, 3)))
    with pytest.raises(UserError, match=r"can't be tested on .*: the pictures are 48x48, and the mean picture is"):
        TestSet.open(larger, str(pixel_shards))
    TestSet.open(dataclasses.replace(saved, means=(saved.means[0], torch.zeros(1, 1, 3))))


def test_the_number_of_crops_is_checked():
    with pytest.raises(UserError, match="--crops is 3; it must be 1 or 10"):
        Views(3)
