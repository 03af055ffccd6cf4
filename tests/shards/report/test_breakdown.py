from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from shards.format import outcomes
from shards.format.columns import Names
from shards.format.index import LABELS
from shards.format.parts import write_parts
from shards.report.breakdown import Breakdown, Filter
from shards.report.rows import Rows
from shards.url_list.parse import ROWS_SCHEMA
from tests.drawn_outcomes import BEGAN, rows_from

STATUSES = ["kept", "gone", "timeout"]
COUNT = 70_000  # more rows than are counted together


@pytest.fixture(scope="module", params=["one label", "several labels"])
def table(request):
    """Rows of 3 classes, 2 splits and 3 hosts; the last is pending."""
    random = np.random.default_rng(0)
    draws = {
        name: random.integers(0, size, COUNT).tolist() for name, size in {"label": 3, "split": 2, "host": 3}.items()
    }
    status = [STATUSES[number] for number in random.integers(0, 3, COUNT)]
    further = [[label] if number % 2 else [label, (label + 1) % 3] for number, label in enumerate(draws["label"])]
    labels = further if request.param == "several labels" else [[label] for label in draws["label"]]
    return draws | {"status": [*status[:-1], "not_yet"], "labels": labels, "several": request.param == "several labels"}


@pytest.fixture(scope="module")
def breakdown(table, tmp_path_factory):
    root = tmp_path_factory.mktemp("d")
    (root / "blocks").mkdir()
    splits = [("test", "train")[split] for split in table["split"]]
    lines = [{"label": label, "split": split} for label, split in zip(table["label"], splits, strict=True)]
    listed = rows_from([line | {"image_url": ""} for line in lines])
    schema = ROWS_SCHEMA
    if table["several"]:
        schema = ROWS_SCHEMA.append(LABELS)
        listed = listed.append_column(LABELS, pa.array(table["labels"], LABELS.type)).cast(schema)
    write_parts(root / "blocks" / "rows.parquet", [listed], schema)
    done = COUNT - 1
    same = {"key": "k", "image_url": "", "split": "", "label": 0, "attempts": 1, "seconds": 0.1, "time": BEGAN}
    columns = {name: [value] * done for name, value in (same | {"message": ""}).items()}
    columns |= {"row": list(range(done)), "status": table["status"][:-1]}
    columns |= {name: [None] * done for name in outcomes.OUTCOMES_SCHEMA.names if name not in columns}
    found = pa.table([pa.array(columns[field.name], field.type) for field in outcomes.OUTCOMES_SCHEMA],
                     schema=outcomes.OUTCOMES_SCHEMA)  # fmt: skip
    write_parts(root / "outcomes.parquet", [found], outcomes.OUTCOMES_SCHEMA)
    hosts = Names.join([pa.array([f"h{host}" for host in table["host"]])])
    return Breakdown(Rows.load(root), hosts, "class {}".format)


def named(breakdown, cell):
    """Return a cell with the names of its choices; None for any class."""
    names = [each.names for each in breakdown.filters.values()]
    return tuple(choices[choice - 1] if choice else None for choices, choice in zip(names, cell[:4], strict=True))


def test_the_cells_have_the_numbers_of_rows(breakdown, table):
    expected: Counter[tuple] = Counter()
    rows = zip(table["labels"], table["split"], table["status"], table["host"], strict=True)
    for labels, split, status, host in rows:
        for label in (None, *labels):
            name = None if label is None else f"class {label}"
            expected[name, ("test", "train")[split], status, f"h{host}"] += 1
    assert {named(breakdown, cell): cell[4] for cell in breakdown.cells} == expected
    assert sum(cell[4] for cell in breakdown.cells if cell[0] == 0) == COUNT


def test_each_cell_without_pictures_has_its_first_row_as_an_example(breakdown, table):
    first: dict[tuple, int] = {}
    for position in range(COUNT - 1):
        cell = tuple(table[name][position] for name in ("label", "split", "status", "host"))
        if cell[2] != "kept":
            first.setdefault(cell, position)
    assert breakdown.choose_examples(100).tolist() == sorted(first.values())
    few = breakdown.choose_examples(5).tolist()
    assert set(few) < set(first.values())
    assert len(few) == 5


def test_a_row_has_the_choices_that_are_counted(breakdown, table):
    for position in (0, 1, COUNT - 1):
        choices = breakdown.choices_of(position)
        names = {
            name: [breakdown.filters[name].names[choice - 1] for choice in found] for name, found in choices.items()
        }
        assert names["class"] == sorted(f"class {label}" for label in table["labels"][position])
        assert names["split"] == [("test", "train")[table["split"][position]]]
        assert names["outcome"] == [table["status"][position]]
        assert names["host"] == [f"h{table['host'][position]}"]


def test_rare_values_are_one_choice_and_unused_ones_none():
    found = Filter.of(np.array([4, 4, 4, 0, 0, 2, 6], np.int8), "v{}".format, 2)
    assert found.names == ["v0", "v4", "2 others"]
    assert found.choices[[0, 2, 4, 6]].tolist() == [0, 2, 1, 2]
    assert Filter.of(np.array([], np.int8), str, 2).names == []
