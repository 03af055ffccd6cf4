import re

from shards.format.outcomes import NOT_YET, Status
from shards.report.words import explain_outcome, name_outcome


def test_every_outcome_has_words_without_codes():
    names = [name_outcome(status) for status in (*Status, NOT_YET)]
    assert len(set(names)) == len(names)
    for status in (*Status, NOT_YET):
        text = f"{name_outcome(status)} {explain_outcome(status)}"
        assert explain_outcome(status), status
        assert not re.search(r"[0-9_]|aria2|errno", text), text


def test_a_status_of_a_later_version_is_its_own_name():
    assert (name_outcome("teapot"), explain_outcome("teapot")) == ("teapot", "")
