import hashlib
import json

import pytest

from shards.assembly.pack import find_checksum_mismatch

BODY = b"some bytes"
RIGHT = {name: hashlib.new(name, BODY).hexdigest() for name in ("sha256", "md5")}


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"page_url": "http://h/sha256"},
        {"sha256": ""},
        {"sha256": None, "md5": RIGHT["md5"]},
        {"sha256": RIGHT["sha256"].upper()},
        {"md5": f" {RIGHT['md5']} "},
        RIGHT,
    ],
)
def test_a_right_hash_and_none_are_no_mismatch(columns):
    assert find_checksum_mismatch(json.dumps(columns), BODY) is None


@pytest.mark.parametrize("name", ["sha256", "md5"])
@pytest.mark.parametrize("wrong", ["0" * 64, "no hash", 5])
def test_a_wrong_hash_is_told_with_the_right_one(name, wrong):
    told = find_checksum_mismatch(json.dumps(RIGHT | {name: wrong}), BODY)
    assert told == f"its {name} is {RIGHT[name]}, where the list has {wrong}"


def test_a_huge_hash_is_cut():
    assert len(find_checksum_mismatch(json.dumps({"md5": "x" * 10**6}), BODY)) < 300
