import dataclasses
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.format.outcomes import OUTCOMES_SCHEMA, TRANSIENT_STATUSES, Outcome, Status, count_outcomes
from tests.programs import ROOT


def test_every_field_of_an_outcome_is_a_column():
    assert {field.name for field in dataclasses.fields(Outcome)} <= set(OUTCOMES_SCHEMA.names)


def test_only_failures_that_may_not_recur_are_transient():
    assert {"rate_limited", "server_error", "timeout", "incomplete"} <= TRANSIENT_STATUSES
    assert not TRANSIENT_STATUSES & {Status.KEPT, Status.NOT_FOUND, Status.GONE, Status.PLACEHOLDER, Status.CORRUPT}


def section(title):
    text = (ROOT / "docs" / "crawl_reference.md").read_text()
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_table_in_the_docs_has_every_status_and_which_are_transient():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (yes|no)? ?\|$", section("Statuses"), re.MULTILINE)
    assert [name for name, _, _ in rows] == [str(status) for status in Status]
    assert {name for name, _, is_transient in rows if is_transient == "yes"} == TRANSIENT_STATUSES
    assert len(rows) == section("Statuses").count("\n| `")


def test_the_table_in_the_docs_has_every_column():
    first_cells = re.findall(r"^\| (`.+?) \|", section("Columns of outcomes.parquet"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == set(OUTCOMES_SCHEMA.names)


def test_outcomes_are_counted_by_status_the_largest_first(tmp_path):
    pq.write_table(pa.table({"status": ["gone", "kept", "kept"]}), tmp_path / "outcomes.parquet")
    assert list(count_outcomes(tmp_path / "outcomes.parquet").items()) == [("kept", 2), ("gone", 1)]


@pytest.mark.parametrize("content", [None, b"not Parquet", b""])
def test_outcomes_that_cant_be_read_are_none(tmp_path, content):
    path = tmp_path / "outcomes.parquet"
    if content is not None:
        path.write_bytes(content)
    assert count_outcomes(path) == {}


def test_a_table_without_statuses_has_no_outcomes(tmp_path):
    pq.write_table(pa.table({"row": [1]}), tmp_path / "outcomes.parquet")
    assert count_outcomes(tmp_path / "outcomes.parquet") == {}
