"""launch/install.sh and launch/constraints.txt: the tested versions are the ones that are installed."""

import re
import shutil
import subprocess
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.programs import ROOT

# An interpreter that makes a .venv of copies of itself, and records what pip would do.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
-c*) ;;
--version) echo pip 99 ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/pip ;;
*freeze*) printf 'numpy==9.9\\nsetuptools==99.1\\n' ;;
*) echo "$* with ${PIP_CONSTRAINT:-nothing} and ${PIP_BUILD_CONSTRAINT:-nothing}" >>calls ;;
esac
"""
PIP = "-m pip install --disable-pip-version-check --progress-bar off --config-settings editable_mode=compat -e"
CONSTRAINED = "with launch/constraints.txt and launch/constraints.txt"


def constraints():
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def normalize(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def checkout(tmp_path):
    """A checkout, and the calls of pip."""
    folder = tmp_path / "a checkout"
    (folder / "launch").mkdir(parents=True)
    for name in ("launch/install.sh", "launch/functions.sh", "launch/constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "python").write_text(FAKE_PYTHON)
    (folder / "python").chmod(0o755)
    return folder


def install(checkout, *arguments):
    program = [checkout / "launch" / "install.sh", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "./python"}
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)


def calls(checkout):
    return (checkout / "calls").read_text().splitlines()


def test_every_dependency_and_build_requirement_has_one_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tested = {normalize(name): version for name, version in constraints().items()}
    required = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, [*required, *project["build-system"]["requires"]]):
        version = tested.get(normalize(requirement.name))
        assert version, f"{requirement.name} is missing; run launch/install.sh --refresh"
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_the_constraints_name_versions_only():
    text = (ROOT / "launch" / "constraints.txt").read_text()
    assert all(re.fullmatch(r"#.*|[\w.-]+==[\w.!]+", line) for line in text.splitlines())
    assert "stylefinetune==" not in text


def test_the_installed_versions_are_the_tested_ones():
    """Fails where the tests run on other versions than a fresh install gets."""
    installed = {normalize(one.name): one.version for one in metadata.distributions()}
    different = {
        name: (installed[normalize(name)], version)
        for name, version in constraints().items()
        if installed.get(normalize(name), version) != version
    }
    assert different == {}


def test_pip_gets_the_constraints_for_the_packages_and_for_their_build_tools(checkout):
    done = install(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(checkout) == [f"{PIP} . {CONSTRAINED}"]


def test_an_installation_is_valid_until_pyproject_or_the_constraints_change(checkout):
    for _ in range(2):
        assert install(checkout, "dev").returncode == 0
    assert install(checkout).stdout == ""  # the one with the tools serves as well
    assert calls(checkout) == [f"{PIP} .[dev] {CONSTRAINED}"]
    for changed, name in enumerate(("pyproject.toml", "launch/constraints.txt"), start=2):
        with (checkout / name).open("a") as file:
            file.write("# a change\n")
        done = install(checkout, "dev")
        assert "Bringing .venv up to date" in done.stdout
        assert calls(checkout) == [f"{PIP} .[dev] {CONSTRAINED}"] * changed


def test_refresh_installs_the_newest_versions_into_a_new_venv_and_writes_them(checkout):
    install(checkout)
    (checkout / ".venv" / "old").touch()
    done = install(checkout, "--refresh")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (checkout / ".venv" / "old").exists()
    assert calls(checkout)[1:] == [f"{PIP} .[dev] with nothing and nothing"]
    comment, *versions = (checkout / "launch" / "constraints.txt").read_text().splitlines()
    assert "launch/install.sh --refresh" in comment
    assert versions == ["numpy==9.9", "setuptools==99.1"]
    assert install(checkout, "dev").stdout == ""


def test_a_venv_that_was_moved_is_made_anew(checkout):
    install(checkout)
    (checkout / ".venv" / "bin" / "pip").write_text("#!/no/such/python\n")
    assert ".venv doesn't work" in install(checkout).stdout
    assert len(calls(checkout)) == 2


def test_a_mistake_is_one_line_and_exit_code_2(checkout):
    done = install(checkout, "everything")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "launch/install.sh: unknown argument everything; use dev, --refresh or nothing\n"
