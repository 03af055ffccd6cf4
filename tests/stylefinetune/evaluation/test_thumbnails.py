import shutil

import cv2
import numpy as np

from shards.format.index import ShardIndex
from stylefinetune.evaluation.thumbnails import ShownPictures, thumbnail


def test_a_picture_becomes_a_small_jpeg_and_one_that_cannot_be_read_nothing(pixel_shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(pixel_shards, copy)
    entries = ShardIndex.load(copy).entries("test")
    small = cv2.imdecode(np.frombuffer(thumbnail(entries, 1), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (48, 48, 3)  # not enlarged
    (copy / entries.shard[1]).unlink()
    assert thumbnail(entries, 1) == b""


def test_the_longer_side_may_be_chosen(original_shards):
    jpeg = thumbnail(ShardIndex.load(original_shards).entries("test"), 1, side=30)
    assert max(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape) == 30


def test_pictures_that_the_shards_have_no_more_have_no_thumbnail(pixel_shards, tmp_path):
    entries = ShardIndex.load(pixel_shards).entries("test")
    pictures = ShownPictures(str(pixel_shards), "test")
    assert pictures.are_there
    assert pictures.thumbnail(1, entries.key[1]) == thumbnail(entries, 1) != b""
    assert pictures.thumbnail(1, entries.key[0]) == b""
    assert pictures.thumbnail(len(entries), entries.key[0]) == b""
    gone = ShownPictures(str(tmp_path), "test")
    assert not gone.are_there
    assert gone.thumbnail(1, entries.key[1]) == b""
