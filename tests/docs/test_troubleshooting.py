"""Each message that docs/troubleshooting.md quotes is still one of the programs."""

import ast
import functools
import re

import pytest

from tests.programs import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `(.+?)` \|", PAGE, re.MULTILINE)
GAP = "\x00"  # a value in a message
SHORTEST = 4  # characters of a text between two values that is compared
LEAST, ENOUGH = 0.35, 12  # fraction and characters of a part that have to be the source's, the others being values


@functools.cache
def templates():
    """Return the texts between the values of each part of each text of the sources."""
    texts = set()
    for folder in ("shards", "stylefinetune", "launch"):
        for file in (ROOT / folder).rglob("*.py"):
            texts.update(map(text_of, ast.walk(ast.parse(file.read_text(encoding="utf-8")))))
        for file in (ROOT / folder).rglob("*.sh"):
            texts.update(re.findall(r'fail "(.*)"', file.read_text(encoding="utf-8")))
    texts = {re.sub(r"%[\w.]+|\$\(.*?\)|\$\{.*?\}|\$\w+|\{\w*\}", GAP, text) for text in texts if text and " " in text}
    parts = {part for text in texts for part in text.split("; ")}
    found = [[run.strip(" :,(") for run in part.split(GAP)] for part in parts]
    return [runs for all_runs in found if (runs := [run for run in all_runs if len(run) >= SHORTEST])]


def text_of(node):
    """Return the text of a literal of Python, in which each value is a gap; None for another node."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text and "\n" not in node.value else None  # not a docstring


def is_known(part):
    """Return whether a part of a message is one of the sources, apart from values.

    A part before or after "..." may be a piece of one.
    """
    whole, ends = part.replace("...", ""), [end.strip(" (),:") for end in part.split("...")]
    for runs in templates():
        for wanted in (runs, runs[1:]):  # the beginning, such as "--list mine.csv", may be left out
            if sum(map(len, wanted)) >= max(LEAST * len(whole), min(ENOUGH, len(whole) / 2)) and contains(part, wanted):
                return True
        if len(ends) > 1 and all(any(end in run or contains(end, [run]) for run in runs) for end in ends if end):
            return True
    return False


def contains(part, runs):
    place = 0
    for run in runs:
        place = part.find(run, place)
        if place < 0:
            return False
        place += len(run)
    return True


def unknown_parts(message):
    return [part for part in message.split("; ") if not is_known(part)]


def test_the_page_has_messages():
    assert len(MESSAGES) > 60
    assert len(MESSAGES) == len(set(MESSAGES))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_in_the_sources(message):
    assert unknown_parts(message) == []


def test_a_changed_message_would_be_noticed():
    assert unknown_parts("data/mine has no picture: not one of the 90 rows was kept (90 not_found)")
    assert unknown_parts(
        "row 1 has the label cat, a number that is too large; if some names look like numbers, give --classes"
    )
    assert unknown_parts("the disc is full; free some space, then run the same command again")
