import dataclasses
import re

from shards.format.outcomes import OUTCOMES_SCHEMA, TRANSIENT_STATUSES, Outcome, Status
from tests.programs import ROOT


def test_every_field_of_an_outcome_is_a_column():
    assert {field.name for field in dataclasses.fields(Outcome)} <= set(OUTCOMES_SCHEMA.names)


def test_only_failures_that_may_not_recur_are_transient():
    assert {"rate_limited", "server_error", "timeout", "incomplete"} <= TRANSIENT_STATUSES
    assert not TRANSIENT_STATUSES & {Status.KEPT, Status.NOT_FOUND, Status.GONE, Status.PLACEHOLDER, Status.CORRUPT}


def test_the_table_in_the_docs_has_every_status_and_which_are_transient():
    text = (ROOT / "docs" / "crawl.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+\.) \| (yes|no) \|$", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == [str(status) for status in Status]
    assert {name for name, _, is_transient in rows if is_transient == "yes"} == TRANSIENT_STATUSES
    assert len(rows) == text.count("\n| `")
