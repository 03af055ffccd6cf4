import numpy as np
import pyarrow as pa

from shards.format.columns import Names, Texts, join_numbers


def test_numbers_have_the_smallest_type_with_room_for_all_parts():
    for largest, kind in ((127, np.int8), (128, np.int16), (-32_768, np.int16), (32_768, np.int32), (2**31, np.int64)):
        joined = join_numbers([pa.array([0, 1]), pa.array([largest]), np.array([2])])
        assert (joined.tolist(), joined.dtype) == ([0, 1, largest, 2], kind)
    assert join_numbers([]).tolist() == []


def test_texts_are_read_one_by_one():
    texts = Texts.join([pa.array(["b", "a"]), pa.array(["päge", "a", "d"])])
    assert (list(texts), texts[2], len(texts)) == (["b", "a", "päge", "a", "d"], "päge", 5)
    assert list(texts.select(slice(1, 4))) == ["a", "päge", "a"]
    assert list(texts.select(np.array([True, False, False, False, True]))) == ["b", "d"]
    assert list(Texts.join([])) == []


def test_a_column_of_few_names_is_stored_as_numbers():
    names = Names.join([pa.array(["b", "a"]), pa.array(["c", "a"])])
    assert (names.distinct, names.codes.tolist(), names.codes.dtype) == (["a", "b", "c"], [1, 0, 2, 0], np.int8)
    assert (list(names), names[2], len(names)) == (["b", "a", "c", "a"], "c", 4)
    assert list(Names.join([])) == []


def test_many_names_keep_their_order_and_a_choice_has_only_those_that_occur():
    listed = [f"{number:05d}.tar" for number in np.random.default_rng(0).permutation(40_000).tolist()]
    names = Names.join([pa.array(listed[:30_000]), pa.array(listed[20_000:])])
    assert names.codes.dtype == np.int32
    assert names.distinct == sorted(listed)
    assert [names[row] for row in (0, 20_000, 30_000, 49_999)] == [listed[row] for row in (0, 20_000, 20_000, 39_999)]
    chosen = names.select(slice(10, 14))
    assert (chosen.distinct, list(chosen)) == (sorted(listed[10:14]), listed[10:14])
    same = names.select(np.arange(50_000) < 40_000)
    assert list(same) == [*listed[:30_000], *listed[20_000:30_000]]
