import pytest

from shards.config.schema import AssembleConfig
from shards.download.policy import find_disallowed_directive

DISALLOWED = AssembleConfig(list="a", out="b").disallowed_header_directives


@pytest.mark.parametrize(
    ("headers", "ban"),
    [
        ([], None),
        (["all"], None),
        (["noai"], "noai"),
        ([" NoAI , noimageai"], "noai"),
        (["nofollow, noimageindex"], "noimageindex"),
        (["nofollow", "noindex"], "noindex"),
        (["none"], "none"),  # noindex, nofollow
        (["noaim"], None),
        (["googlebot: noindex"], None),
        (["googlebot: noindex, nofollow, noai"], None),
        (["googlebot: nofollow, *: noai"], "noai"),
        (["stylefinetune: noai"], "noai"),
        (["StyleFineTune : noai"], "noai"),
        (["otherbot: noindex, stylefinetune: nofollow"], None),
        (["max-snippet: 0, noindex"], "noindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["googlebot: max-snippet: 0, noai"], None),
        (["", ":", ",,"], None),
    ],
)
def test_a_header_bans_what_it_says_to_everyone_or_to_us(headers, ban):
    assert find_disallowed_directive(headers, DISALLOWED) == ban


def test_what_is_disallowed_may_be_chosen():
    assert find_disallowed_directive(["noindex, noai"], {"noai"}) == "noai"
    assert find_disallowed_directive(["none"], {"noai"}) is None
    assert find_disallowed_directive(["noindex, noai"], ()) is None
