import numpy as np
import pyarrow as pa
import pytest

from shards.url_list import reorder
from shards.url_list.reorder import RowStore

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64())])


def stored(folder, counts: list[int]) -> RowStore:
    store = RowStore(SCHEMA, folder)
    for count in counts:
        numbers = range(len(store), len(store) + count)
        store.append(pa.table([[f"row {number}" * (number % 4) for number in numbers], list(numbers)], schema=SCHEMA))
    store.finish()
    return store


@pytest.mark.parametrize(("batch", "bucket"), [(2**22, 2**23), (500, 2**23), (500, 300), (0, 10)])
def test_any_rows_are_returned_in_any_order(tmp_path, monkeypatch, batch, bucket):
    monkeypatch.setattr(reorder, "_BUCKET_BYTES", bucket)
    random = np.random.default_rng(0)
    with RowStore(SCHEMA, tmp_path, batch_bytes=batch) as store:
        for start in range(0, 700, 70):
            store.append(
                pa.table([[f"{row}" for row in range(start, start + 70)], list(range(start, start + 70))], SCHEMA)
            )
        store.finish()
        assert [row for part in store.read() for row in part.column("number").to_pylist()] == list(range(700))
        for count in (700, 699, 70, 1, 0):
            order = random.permutation(700)[:count]
            taken = pa.concat_tables([SCHEMA.empty_table(), *store.take(order)]).to_pylist()
            assert taken == [{"text": str(row), "number": row} for row in order.tolist()]
    assert not list(tmp_path.iterdir())


def test_a_large_selection_is_yielded_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(reorder, "_BUCKET_BYTES", 1000)
    with stored(tmp_path, [100, 300]) as store:
        parts = list(store.take(np.arange(400)[::-1]))
    assert 3 < len(parts) <= 100
    assert [number for part in parts for number in part.column("number").to_pylist()] == list(range(399, -1, -1))
