"""launch/functions.sh: the interpreter that the scripts choose."""

import os
import subprocess
import sys

import pytest

from tests.programs import ROOT

HOME = "folder of the checkout"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / HOME).mkdir()
    return tmp_path / HOME


def make_python(path, *, usable=True):
    """Make a program that stands for an interpreter with or without the project."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {0 if usable else 1}\n")
    path.chmod(0o755)
    return path


def chosen(checkout, function="require_python", **settings):
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **settings}
    command = f'script=launch/x.sh home="$1"; source "$2"; {function} && echo "$PYTHON" && env | grep -c ^PYTHON='
    program = ["bash", "-euo", "pipefail", "-c", command, "bash", checkout, ROOT / "launch" / "functions.sh"]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_python_comes_first_then_the_active_environment_then_path_then_dot_venv(checkout, tmp_path):
    dot_venv = make_python(checkout / ".venv" / "bin" / "python")
    explicit, on_path = make_python(tmp_path / "explicit python"), make_python(tmp_path / "on path" / "python")
    venv, conda = (make_python(tmp_path / name / "bin" / "python") for name in ("venv", "conda"))
    settings = {}
    for name, value, expected in [
        ("HOME", "/", dot_venv),
        ("PATH", f"{on_path.parent}:/usr/bin:/bin", on_path),
        ("CONDA_PREFIX", f"{tmp_path}/conda", conda),
        ("VIRTUAL_ENV", f"{tmp_path}/venv", venv),
        ("PYTHON", str(explicit), explicit),
    ]:
        settings[name] = value
        done = chosen(checkout, **settings)
        assert (done.stdout, done.stderr) == (f"{expected}\n1\n", ""), name


def test_an_active_environment_without_the_project_is_skipped(checkout, tmp_path):
    expected = make_python(checkout / ".venv" / "bin" / "python")
    make_python(tmp_path / "venv" / "bin" / "python", usable=False)
    assert chosen(checkout, VIRTUAL_ENV=f"{tmp_path}/venv").stdout == f"{expected}\n1\n"


def test_a_python_that_lacks_the_project_is_refused(checkout, tmp_path):
    make_python(checkout / ".venv" / "bin" / "python")
    given = make_python(tmp_path / "python", usable=False)
    done = chosen(checkout, PYTHON=str(given))
    assert done.returncode == 2
    assert done.stderr.startswith(f"launch/x.sh: PYTHON is {given}, which can't import torch and stylefinetune")


def test_no_python_is_one_line(checkout):
    done = chosen(checkout)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "launch/x.sh: no Python here can import torch and stylefinetune; run launch/install.sh"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("active", "installs"), [("", True), (".venv", True), ("another", False)])
def test_dot_venv_is_brought_up_to_date_but_another_environment_is_not(checkout, active, installs):
    """launch/test.sh and launch/quickstart.sh call this."""
    dot_venv = make_python(checkout / ".venv" / "bin" / "python")
    other = make_python(checkout / "another" / "bin" / "python")
    install = make_python(checkout / "launch" / "install.sh")
    install.write_text('#!/bin/sh\necho "install $* ${PYTHON:-}"\n')
    settings = {"VIRTUAL_ENV": str(checkout / active)} if active else {}
    done = chosen(checkout, "find_or_install_python dev", **settings)
    assert done.stdout == (f"install dev \n{dot_venv}\n1\n" if installs else f"{other}\n1\n"), done.stderr


def test_the_interpreter_of_this_process_is_usable_and_the_working_folder_alone_is_not():
    command = 'script=x home=.; source launch/functions.sh; is_usable "$1"'
    for python, code in (("/usr/bin/python3", 1), (sys.executable, 0)):
        program = ["bash", "-c", command, "bash", python]
        done = subprocess.run(program, cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, timeout=30, check=False)
        assert done.returncode == code, python


@pytest.mark.parametrize(
    "script",
    [
        *(f"launch/{name}.sh" for name in ("train", "deepspeed", "quickstart", "test", "install")),
        *(f"slurm/{name}.sh" for name in ("assemble", "merge", "finetune")),
    ],
)
def test_help_names_the_script_and_python(script):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    program = [ROOT / script, "--help"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert script in done.stdout
    assert "PYTHON" in done.stdout
    assert "SBATCH" not in done.stdout
    assert "set -euo" not in done.stdout
