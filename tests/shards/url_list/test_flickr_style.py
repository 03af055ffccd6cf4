from pathlib import Path

import pytest

from shards.url_list.flickr_style import FLICKR_STYLE_CLASSES, FLICKR_STYLE_SHA256
from shards.url_list.source import read_source

OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "flickr_style.csv.gz"


def test_there_are_twenty_different_class_names():
    assert FLICKR_STYLE_CLASSES[4] == "HDR"
    assert len(set(FLICKR_STYLE_CLASSES)) == len(FLICKR_STYLE_CLASSES) == 20


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"the official list isn't here: no {OFFICIAL}")
def test_the_hash_is_that_of_the_official_list():
    assert read_source([str(OFFICIAL)]).sha256 == FLICKR_STYLE_SHA256
