import dataclasses

from shards.outcomes import PASSING, SCHEMA, Outcome, Status


def test_every_field_of_an_outcome_is_a_column():
    assert {field.name for field in dataclasses.fields(Outcome)} <= set(SCHEMA.names)


def test_only_what_may_be_otherwise_later_is_passing():
    assert {"rate_limited", "server_error", "timeout", "incomplete"} <= PASSING
    assert not PASSING & {Status.KEPT, Status.NOT_FOUND, Status.GONE, Status.PLACEHOLDER, Status.CORRUPT}
