import itertools

import numpy as np
import pytest

from shards.format.order import ClassBalance, DataOrder, RankBatchSampler, ShuffleWindow, rank_slice


@pytest.mark.parametrize(("count", "size"), [(50, 8), (10, 3), (2, 3), (0, 2), (7, 7)])
def test_rank_slices_partition_a_batch_and_differ_by_at_most_one(count, size):
    slices = [list(range(count)[rank_slice(count, rank, size)]) for rank in range(size)]
    assert list(itertools.chain.from_iterable(slices)) == list(range(count))
    lengths = [len(slice_) for slice_ in slices]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


def test_list_order_continues_with_the_next_epoch_within_a_batch():
    order = DataOrder(rows=7, shuffle=False, seed=0)
    assert [order.row(n) for n in range(5, 16)] == [5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_every_epoch_has_another_permutation_that_depends_only_on_the_seed():
    order = DataOrder(rows=50, shuffle=True, seed=3)
    epochs = [[order.row(n) for n in range(50 * epoch, 50 * epoch + 50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [DataOrder(50, shuffle=True, seed=3).row(n) for n in range(50, 100)] == epochs[1]
    assert [DataOrder(50, shuffle=True, seed=4).row(n) for n in range(50)] != epochs[0]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_has_the_rows_of_its_positions(shuffle):
    order = DataOrder(7, shuffle=shuffle, seed=3)
    positions = range(5, 25)  # in four epochs
    assert order.rows_at(positions).tolist() == [order.row(position) for position in positions]
    assert order.rows_at([]).tolist() == []


def test_the_permutation_is_numpys_for_any_number_of_rows():
    """Earlier releases called `permutation`, which needs eight bytes a row."""
    for rows in (1, 2, 255, 70_000):
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([7, 2])))
        expected = random.permutation(rows)
        assert (DataOrder(rows, shuffle=True, seed=7).rows_at(range(2 * rows, 3 * rows)) == expected).all()


def test_the_permutation_within_a_window_is_that_of_earlier_releases():
    """They computed it as here, with eight bytes for each of six arrays."""
    counts = np.random.default_rng(1).integers(1, 90, 60)
    shard = np.random.default_rng(2).permutation(np.repeat(np.arange(60), counts))
    offsets = np.random.default_rng(3).permutation(len(shard)) * 512
    rank = np.empty(len(shard), np.int64)
    rank[np.lexsort((offsets, shard))] = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([5, 1])))
    begins = random.permutation(60)[shard]
    start, length = rank / counts[shard], 1 / counts[shard]
    times = begins + 8 * (start + length * random.random_sample(len(shard)))
    window = ShuffleWindow.from_index(8, shard.astype(np.int8), offsets)
    found = DataOrder(len(shard), shuffle=True, seed=5, window=window).rows_at(range(len(shard), 2 * len(shard)))
    assert found.tolist() == np.argsort(times % 60, kind="stable").tolist()


def test_the_permutation_is_the_same_in_every_release():
    # A later release, with a later NumPy, can resume a run only if the values stay the same.
    assert [DataOrder(10, shuffle=True, seed=1701).row(n) for n in range(10, 20)] == [2, 1, 5, 7, 3, 0, 4, 6, 8, 9]
    window = ShuffleWindow.from_index(2, np.repeat(np.arange(4), [3, 3, 4, 2]), np.arange(12))
    windowed = [DataOrder(12, shuffle=True, seed=1701, window=window).row(n) for n in range(12, 24)]
    assert windowed == [10, 5, 6, 11, 7, 0, 8, 9, 3, 1, 2, 4]
    assert DataOrder(10, shuffle=False, seed=1701).random_values(123456789, 1)[:, 0].tolist() == [
        605166136364975624,
        3468943428180353842,
        9288176730830211930,
    ]


SHARDS = np.repeat(np.arange(13), [40] * 11 + [7, 1])


def windowed(size, epoch, seed=3):
    """Return the rows of an epoch; rows are stored in their shard in ascending order."""
    order = DataOrder(
        len(SHARDS), shuffle=True, seed=seed, window=ShuffleWindow.from_index(size, SHARDS, np.arange(len(SHARDS)))
    )
    return [order.row(n) for n in range(len(SHARDS) * epoch, len(SHARDS) * (epoch + 1))]


@pytest.mark.parametrize("size", [1, 4, 13, 500])
def test_a_windowed_epoch_has_every_picture_once_and_depends_only_on_seed_and_epoch(size):
    epochs = [windowed(size, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(len(SHARDS))) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert windowed(size, 1) == epochs[1]
    assert windowed(size, 1, seed=4) != epochs[1]


@pytest.mark.parametrize("size", [1, 4, 13])
def test_a_window_reads_each_shard_from_front_to_back_and_few_shards_at_a_time(size):
    rows = windowed(size, 2)
    for shard in range(13):
        read = [row for row in rows if SHARDS[row] == shard]
        steps = [later - earlier for earlier, later in itertools.pairwise(read)]
        assert sum(step != 1 for step in steps) <= 1  # a shard may span the end of the epoch
    at_once = [len({SHARDS[row] for row in rows[first : first + size]}) for first in range(len(rows) - size)]
    assert max(at_once) <= size
    # The shards of the window are interleaved, except the two small ones.
    assert min(len({SHARDS[row] for row in rows[f : f + 3 * size]}) for f in range(len(rows) - 3 * size)) >= size - 2


def test_a_window_larger_than_the_split_equals_the_whole_split():
    assert windowed(500, 1) == windowed(13, 1)


def test_a_window_follows_the_offsets_in_the_shards_not_the_order_of_the_list():
    offsets = np.array([3, 0, 2, 1, 9, 8])
    window = ShuffleWindow.from_index(1, np.array([0, 0, 1, 0, 1, 1]), offsets)
    rows = [DataOrder(6, shuffle=True, seed=0, window=window).row(n) for n in range(6)]
    assert rows in ([1, 3, 0, 2, 5, 4], [2, 5, 4, 1, 3, 0])


@pytest.mark.parametrize("seed", [0, 1701, 2**32 - 1, 2**63 - 1])
@pytest.mark.parametrize("first", [0, 1, 123456789, 2**32 - 3, 2**53 - 1, 2**63 - 60])
def test_the_random_values_of_many_positions_are_those_of_each_position_alone(seed, first):
    # Runs of earlier releases drew them one by one, with these numbers.
    alone = [np.random.Philox(key=[seed, 0], counter=[n, 0, 0, 0]).random_raw(3) for n in range(first, first + 50)]
    order = DataOrder(1, shuffle=False, seed=seed)
    np.testing.assert_array_equal(order.random_values(first, 50), np.transpose(alone))
    np.testing.assert_array_equal(order.random_values(first + 7, 5), np.transpose(alone)[:, 7:12])
    assert order.random_values(first, 0).shape == (3, 0)


def test_random_values_are_uniform_and_independent_of_their_neighbours():
    values = DataOrder(1, shuffle=False, seed=5).random_values(0, 4000).T
    means = (values % np.uint64(2)).mean(axis=0)
    assert np.all(np.abs(means - 0.5) < 0.03)
    bits = (values % np.uint64(2)).astype(float)
    assert abs(np.corrcoef(bits[1:, 2], bits[:-1, 2])[0, 1]) < 0.06
    assert abs(np.corrcoef(bits[:, 0], bits[:, 1])[0, 1]) < 0.06


def test_a_finished_run_has_no_batches():
    over = RankBatchSampler(70, 70, 10, 0, 1)
    assert list(over) == []
    assert len(over) == 0


LABELS = np.array([0] * 50 + [2] * 5 + [3] * 2 + [7], np.int32)  # of 58 rows; other classes have no pictures


def balanced(labels=LABELS, seed=3):
    return DataOrder(len(labels), shuffle=True, seed=seed, window=ClassBalance.from_labels(labels))


def test_a_balanced_epoch_has_its_length_and_all_classes_equally_often():
    for epoch in range(5):
        rows = balanced().rows_at(range(58 * epoch, 58 * epoch + 58))
        counts = np.bincount(LABELS[rows])
        assert counts[[1, 4, 5, 6]].sum() == 0
        assert sorted(counts[[0, 2, 3, 7]]) == [14, 14, 15, 15]


def test_a_class_repeats_a_picture_only_when_all_of_its_pictures_were_drawn():
    rows = balanced().rows_at(range(58))
    times = np.bincount(rows, minlength=58)
    assert times[:50].max() == 1  # 50 pictures for 14 or 15 places
    assert set(times[50:55]) <= {2, 3}  # 5 pictures
    assert set(times[55:57]) <= {7, 8}  # 2 pictures
    assert times[57] in {14, 15}
    more = balanced().rows_at(range(60 * 58))
    assert set(range(50)) <= set(more.tolist())


def test_the_classes_of_a_balanced_epoch_are_shuffled():
    labels = LABELS[balanced().rows_at(range(58))]
    assert len(set(labels[:20])) == 4
    assert len(set(labels[-20:])) == 4


def test_a_balanced_order_depends_only_on_the_seed_and_the_position():
    order = balanced()
    assert [order.row(position) for position in range(40, 140)] == balanced().rows_at(range(40, 140)).tolist()
    first, second = (balanced().rows_at(range(58 * epoch, 58 * epoch + 58)).tolist() for epoch in (0, 1))
    assert first != second
    assert balanced(seed=4).rows_at(range(58)).tolist() != first


def test_a_slice_with_partners_begins_with_the_picture_before_it_in_the_batch():
    slices = [list(RankBatchSampler(20, 40, 10, rank, 3, partners=True)) for rank in range(3)]
    assert slices[0] == [[29, 20, 21, 22, 23], [39, 30, 31, 32, 33]]
    assert slices[1] == [[23, 24, 25, 26], [33, 34, 35, 36]]
    assert slices[2] == [[26, 27, 28, 29], [36, 37, 38, 39]]
    assert list(RankBatchSampler(0, 1, 1, 0, 2, partners=True)) == [[0, 0]]
    assert list(RankBatchSampler(0, 1, 1, 1, 2, partners=True)) == [[]]
