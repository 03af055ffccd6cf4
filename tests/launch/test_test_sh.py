"""launch/test.sh: its tiers, and what makes it fail."""

import shutil
import subprocess
import sys

import pytest

from tests.programs import ROOT

LINTERS = ["ruff check", "ruff format --check", "pyright --pythonpath", "lint-imports", "shellcheck -x"]
XDIST = "-n logical --dist loadgroup"


@pytest.fixture
def checkout(tmp_path):
    """A checkout with an environment whose programs only record their arguments, and exit with EXIT_OF_NAME."""
    folder = tmp_path / "a checkout"
    (folder / "launch").mkdir(parents=True)
    for name in ("test.sh", "functions.sh"):
        shutil.copy(ROOT / "launch" / name, folder / "launch" / name)
    bin_folder = tmp_path / "environment" / "bin"
    bin_folder.mkdir(parents=True)
    record = f'#!/bin/sh\nname=${{0##*/}}\necho "$name $*" >>"{tmp_path}/calls"\neval "exit \\${{EXIT_OF_$name:-0}}"\n'
    for name in ("ruff", "pyright", "lint-imports", "shellcheck", "pytest"):
        (bin_folder / name).write_text(record if name != "lint-imports" else record.replace("$name:", "lint:"))
    (bin_folder / "python").write_text(f'#!/bin/sh\necho "{bin_folder}"\n')  # the folder of the programs
    for program in bin_folder.iterdir():
        program.chmod(0o755)
    return folder


def run_tests(checkout, *arguments, **settings):
    """Run launch/test.sh; return the process and what it ran."""
    environment = {"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": str(checkout.parent / "environment"), **settings}
    program = [checkout / "launch" / "test.sh", *arguments]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return done, (checkout.parent / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("arguments", "linters", "expected"),
    [
        ([], LINTERS, f"pytest -m not slow {XDIST}"),
        (["-n", "0", "tests/shards"], LINTERS, f"pytest -m not slow {XDIST} -n 0 tests/shards"),
        (["--all", "-x"], LINTERS, f"pytest {XDIST} -x"),
        (["--slow"], [], f"pytest -m slow {XDIST}"),
    ],
)
def test_the_tiers(checkout, arguments, linters, expected):
    done, calls = run_tests(checkout, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    *before, tests = calls
    assert tests == expected
    assert len(before) == len(linters)
    assert all(call.startswith(linter) for call, linter in zip(before, linters, strict=True))


@pytest.mark.parametrize("name", ["ruff", "shellcheck", "pytest"])
def test_a_failure_is_in_the_summary_and_does_not_keep_the_other_checks_from_running(checkout, name):
    done, calls = run_tests(checkout, **{f"EXIT_OF_{name}": "1"})
    assert done.returncode == 1
    assert len(calls) == len(LINTERS) + 1
    assert done.stdout[done.stdout.index("== summary") :].count("FAILED (1)") == (2 if name == "ruff" else 1)


def test_a_slow_tier_without_tests_passes_but_a_selection_without_tests_fails(checkout):
    """pytest exits with 5 when it has found no test."""
    done, _ = run_tests(checkout, "--slow", EXIT_OF_pytest="5")
    assert (done.returncode, "none selected" in done.stdout) == (0, True)
    done, _ = run_tests(checkout, EXIT_OF_pytest="5")
    assert (done.returncode, "FAILED (5)" in done.stdout) == (1, True)


def test_a_group_of_tests_runs_in_one_process(tmp_path):
    """The Slurm tests share a cluster. Some releases of pytest and pytest-xdist together ignore groups silently."""
    test = 'def test(number, worker_id):\n    open(f"{worker_id}.txt", "w").close()\n'
    marks = '@pytest.mark.xdist_group("g")\n@pytest.mark.parametrize("number", range(6))\n'
    (tmp_path / "test_group.py").write_text(f"import pytest\n\n{marks}{test}")
    program = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "6 passed" in done.stdout, done.stdout
    assert len(list(tmp_path.glob("gw*.txt"))) == 1
