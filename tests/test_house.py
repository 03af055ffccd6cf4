"""Rules of the repository: small modules and folders, a test file for each module, and documents whose paths exist."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.programs import ROOT

PACKAGES = ("shards", "stylefinetune", "launch")
MAX_LINES = 330
MAX_FILES = 13  # of Python, in a folder
WITHOUT_BEHAVIOUR = {"__init__.py", "stylefinetune/engines/engine.py"}  # not tested

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_small_and_have_a_docstring(package):
    modules = [path for path in MODULES if path.is_relative_to(ROOT / package)]
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in modules}
    assert [name for name, text in texts.items() if len(text.splitlines()) > MAX_LINES] == [], "split these"
    assert [name for name, text in texts.items() if not text.startswith('"""')] == []


def test_folders_are_small():
    files = Counter(name_of(path.parent) for path in MODULES)
    assert {folder: count for folder, count in files.items() if count > MAX_FILES} == {}


def test_every_module_has_a_test_file():
    tested = [path for path in MODULES if not {path.name, name_of(path)} & WITHOUT_BEHAVIOUR]
    expected = [ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.stem.strip('_')}.py") for path in tested]
    assert [name_of(path) for path in expected if not path.is_file()] == []


@pytest.mark.parametrize(
    "script",
    sorted(path for folder in ("launch", "slurm", "tests/slurm") for path in (ROOT / folder).glob("*.sh")),
    ids=name_of,
)
def test_scripts_are_executable_and_strict(script):
    assert script.stat().st_mode & 0o111
    assert re.search(r"^set -.*u.*o pipefail$", script.read_text(), re.MULTILINE)


def test_every_path_in_the_documents_exists():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    missing = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        paths = re.findall(
            r"(?<![\w/.-])((?:launch|shards|stylefinetune|configs|docs|tests|benchmarks|slurm)/[\w/.-]*\w)", text
        )
        links = [Path(link) for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]
        missing += [f"{document.name}: {name}" for name in paths if not (ROOT / name).exists()]
        missing += [f"{document.name}: {link}" for link in links if not (document.parent / link).exists()]
    assert missing == []
