"""The house's own rules: rooms stay small, every room has its tests, and what the README names is there."""

import re
from pathlib import Path

import pytest

from tests.programs import ROOT

PACKAGES = ("shards", "stylefinetune", "launch")
LONGEST = 330
# Rooms without behaviour of their own.
BARE = {"__init__.py", "stylefinetune/engines/engine.py"}

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_stays_small_and_opens_with_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST, "has it grown two ideas? then split it"
    assert text.startswith('"""')


@pytest.mark.parametrize("path", [path for path in MODULES if not {path.name, name_of(path)} & BARE], ids=name_of)
def test_a_module_has_its_tests(path):
    mirrored = path.relative_to(ROOT)
    expected = ROOT / "tests" / mirrored.with_name(f"test_{path.stem.strip('_')}.py")
    assert expected.is_file(), f"{mirrored} wants {expected.relative_to(ROOT)}"


@pytest.mark.parametrize(
    "script",
    sorted(path for folder in ("launch", "slurm", "tests/slurm") for path in (ROOT / folder).glob("*.sh")),
    ids=name_of,
)
def test_scripts_are_executable_and_strict(script):
    assert script.stat().st_mode & 0o111
    assert re.search(r"^set -.*u.*o pipefail$", script.read_text(), re.MULTILINE)


def test_every_path_that_the_documents_name_exists():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    missing = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        named = re.findall(
            r"(?<![\w/.-])((?:launch|shards|stylefinetune|configs|docs|tests|benchmarks|slurm)/[\w/.-]*\w)", text
        )
        linked = [Path(link) for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
        missing += [f"{document.name}: {name}" for name in named if not (ROOT / name).exists()]
        missing += [f"{document.name}: {link}" for link in linked if not (document.parent / link).exists()]
    assert missing == []
