import numpy as np
import pyarrow as pa

from shards.format.repeats import find_repeats, hash_texts, is_among


def test_texts_that_occur_in_several_parts_are_found():
    parts = [pa.chunked_array([["a", "b", None], ["c"]]), pa.chunked_array([[None, "a"]], pa.string())]
    hashes = [hash_texts(part) for part in parts]
    repeats = find_repeats(hashes)
    assert repeats.tolist() == hash_texts(pa.chunked_array([["a"]])).tolist()
    assert [is_among(each, repeats).tolist() for each in hashes] == [[True, False, False, False], [False, True]]


def test_without_repeats_nothing_is_found():
    assert find_repeats([]).tolist() == []
    repeats = find_repeats([np.array([0, 3, 5]), np.array([0, 4])])
    assert repeats.tolist() == []
    assert is_among(np.array([0, 3]), repeats).tolist() == [False, False]


def test_each_repeated_hash_is_returned_once_and_sorted():
    repeats = find_repeats([np.array([9, -7, 9, 2]), np.array([9, -7, 1])])
    assert repeats.tolist() == [-7, 9]
    assert is_among(np.array([10, 9, 1, -7, -8]), repeats).tolist() == [False, True, False, True, False]
