import datetime as dt
import decimal
import io
import json
import math
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.url_list.parquet import read_parquet, to_json_values


def written(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def read(**columns) -> list[dict]:
    return list(read_parquet(io.BytesIO(written(**columns)), "list.parquet"))


def integers(kind: pa.DataType, *values: int | None) -> pa.Array:
    """Return an array of a type by the integers that represent its values."""
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)


NANOSECONDS = 1_400_000_000_123_456_789
CONVERSIONS = [
    (integers(pa.timestamp("ns"), NANOSECONDS, None), ["2014-05-13T16:53:20.123456789", None]),
    (integers(pa.timestamp("us", "Europe/Berlin"), NANOSECONDS // 1000), ["2014-05-13T16:53:20.123456Z"]),
    (integers(pa.timestamp("ns", "no/zone"), NANOSECONDS), ["2014-05-13T16:53:20.123456789Z"]),
    (integers(pa.timestamp("ms"), 253_402_300_800_000), ["10000-01-01T00:00:00.000"]),
    (integers(pa.timestamp("s"), -(2**60)), ["-36534626109-08-20T10:03:44"]),
    (integers(pa.date32(), 16_000, 2**31 - 1, None), ["2013-10-22", "5881580-07-11", None]),
    (integers(pa.time64("ns"), 123_456_789, None), ["00:00:00.123456789", None]),
    (integers(pa.time32("s"), 86_399), ["23:59:59"]),
    (integers(pa.duration("ns"), 123_456_789, None, -1), ["123456789 ns", None, "-1 ns"]),
    (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
    (pa.array([decimal.Decimal(10) ** 60], pa.decimal256(61, 0)), ["1" + "0" * 60]),
    (pa.array([b"caf\xc3\xa9", None]), ["café", None]),
    (pa.array([b"ab"], pa.large_binary()), ["ab"]),
    (pa.array([b"ab"], pa.binary(2)), ["ab"]),
    (pa.array([b"ab"], pa.binary_view()), ["ab"]),
    (pa.array(["é"], pa.large_string()), ["é"]),
    (pa.array(["é"], pa.string_view()), ["é"]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    (pa.array([True, None]), [True, None]),
    (pa.array([1.5, None], pa.float16()), [1.5, None]),
    (pa.nulls(2), [None, None]),
    (pa.array([[1, None], None, []], pa.large_list(pa.int8())), [[1, None], None, []]),
    (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
    (pa.array([[b"a"], None], pa.list_view(pa.binary())), [["a"], None]),
    (pa.array([{"a": [{"b": b"x"}]}, None, {"a": None}]), [{"a": [{"b": "x"}]}, None, {"a": None}]),
    (
        pa.array([[("k", 1), ("k", None)], None], pa.map_(pa.string(), pa.int64())),
        [[{"key": "k", "value": 1}, {"key": "k", "value": None}], None],
    ),
    (pa.array([[dt.datetime(9999, 1, 1)]], pa.list_(pa.timestamp("ms"))), [["9999-01-01T00:00:00.000"]]),  # noqa: DTZ001
    (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=1).bytes, None], pa.binary(16))),
        [str(uuid.UUID(int=1)), None],
    ),
    (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}'])), ['{"a":1}']),
]


@pytest.mark.parametrize(("array", "values"), CONVERSIONS, ids=lambda value: str(getattr(value, "type", "")))
def test_every_type_becomes_json_without_loss(array, values):
    assert to_json_values(array) == values
    assert to_json_values(pa.concat_arrays([array, array]).slice(1)) == [*values, *values][1:]
    json.dumps(values)


def test_rows_of_a_file_have_the_values_of_its_columns():
    count = 25_000  # several batches
    rows = read(image_url=[f"http://h/{i}" for i in range(count)], label=pa.array(["a", None] * (count // 2)))
    assert len(rows) == count
    assert rows[-1] == {"image_url": "http://h/24999", "label": None}


def test_not_a_number_is_left_to_the_encoder():
    assert math.isnan(to_json_values(pa.array([math.nan]))[0])


def broken_text(count: int) -> pa.Array:
    return pa.array([b"ok"] * count + [b"\xff\xfe"]).view(pa.string())


@pytest.mark.parametrize(
    "column", [broken_text(3), pa.array([b"ok", None, b"", b"\xff"]), pa.array([[b"a"]] * 3 + [[b"\xff"]])]
)
def test_a_value_that_is_not_text_is_named(column):
    with pytest.raises(
        ShardsError, match=r"^--list list\.parquet: column x, row 3 \(counted from 0\): the value isn't UTF-8 text; "
    ):
        read(image_url=["http://h/1"] * 4, x=column)


def test_the_row_is_counted_from_the_beginning_of_the_file():
    with pytest.raises(ShardsError, match="column x, row 12345 "):
        read(x=broken_text(12_345))


def test_two_columns_or_fields_of_one_name_are_refused():
    buffer = io.BytesIO()
    pq.write_table(pa.table([[1], [2]], names=["label", "label"]), buffer)
    with pytest.raises(ShardsError, match="two columns have the same name among label, label"):
        list(read_parquet(buffer, "a"))
    field = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(TypeError, match="two fields have the same name"):
        to_json_values(field)


def test_a_type_without_json_values_is_refused():
    with pytest.raises(TypeError, match="month_day_nano"):
        to_json_values(pa.array([(1, 2, 3)], pa.month_day_nano_interval()))
