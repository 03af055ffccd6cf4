import dataclasses
import json

from tests.run_facts import FACTS


def test_the_facts_are_json_and_say_how_many_urls_still_had_their_picture():
    facts = json.loads(json.dumps(FACTS.as_dict()))
    assert (facts["classes"], facts["kept_urls"]) == (["Noir", "Bokeh"], 0.75)


def test_shards_without_outcomes_have_no_fraction_of_urls():
    assert "kept_urls" not in dataclasses.replace(FACTS, outcomes={}).as_dict()
