import numpy as np
import pyarrow as pa

from shards.format.columns import Lists, Names, Texts, join_numbers


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


def test_lists_are_stored_in_one_array():
    rows = [[1, 5], [], [300], [0, 2, 4]]
    lists = Lists.join([pa.array(rows[:1]), pa.array([], pa.list_(pa.int32())), pa.array([[9], *rows[1:]])[1:]])
    assert ([lists[row].tolist() for row in range(4)], len(lists)) == (rows, 4)
    assert (lists.values.dtype, lists.ends.dtype) == (np.int16, np.int8)
    assert lists.counts.tolist() == [2, 0, 1, 3]
    assert lists.to_arrow().to_pylist() == rows
    assert len(Lists.join([])) == 0


def test_lists_are_chosen_like_other_columns():
    rows = [[1, 5], [7], [300], [0, 2, 4]]
    lists = Lists.join([pa.array(rows)])
    assert lists.first.tolist() == [1, 7, 300, 0]
    for chosen in (slice(1, 3), slice(0, 0), slice(2, None)):
        assert lists.select(chosen).to_arrow().to_pylist() == rows[chosen]
    assert np.shares_memory(lists.select(slice(1, 3)).values, lists.values)
    assert lists.select(np.array([True, False, False, True])).to_arrow().to_pylist() == [rows[0], rows[3]]
    assert lists.take(np.array([3, 0, 3])).to_arrow().to_pylist() == [rows[3], rows[0], rows[3]]
    assert len(lists.take(np.array([], np.int64))) == 0
