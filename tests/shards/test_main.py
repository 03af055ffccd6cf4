import shutil
import sys
import tomllib
from importlib import metadata

import pytest

from shards.__main__ import main
from shards.__main__ import run as run_process
from tests.drawn_outcomes import draw_photo, rows_from, write_dir
from tests.programs import ROOT, bash_completions, run


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    assert "assemble" in capsys.readouterr().err
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split()[0] for line in lines if line.startswith("  ")]
    assert commands == ["assemble", "finalize", "index", "merge", "mean", "repack", "report", "verify", "completion"]


def test_an_unknown_command_is_one_line_and_exit_code_2(capsys):
    assert main(["assembel"]) == 2
    assert capsys.readouterr().err == "error: unknown command assembel; did you mean assemble?\n"
    assert main(["xyz"]) == 2
    assert capsys.readouterr().err == "error: unknown command xyz; shards --help lists the commands\n"


@pytest.mark.parametrize("command", ["--help", "report DIR", "verify DIR"])
def test_a_reader_that_ends_early_is_no_error(command, tmp_path):
    """In a real pipe, since Python and rich write the rest of their buffers as the process ends."""
    write_dir(tmp_path / "DIR", rows_from([{"image_url": "http://h/1.jpg"}]), ("noir",), [draw_photo(1)])
    done = run("bash", "-c", f"{sys.executable} -m shards {command} | true; exit $PIPESTATUS", cwd=tmp_path)
    assert done.stderr == ""
    assert done.returncode in {0, 141}  # 0 if all was written before `true` ended


def test_a_class_name_that_the_terminal_lacks_is_printed_as_an_escape_and_written_as_utf_8(tmp_path):
    """In a new interpreter, which reads PYTHONIOENCODING when it starts."""
    write_dir(tmp_path / "DIR", rows_from([{"image_url": "http://h/1.jpg"}]), ("été",), [draw_photo(1)])
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = run(sys.executable, "-m", "shards", "report", "DIR", cwd=tmp_path, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe9t\\xe9" in done.stdout
    assert "été" in (tmp_path / "DIR" / "report.html").read_text(encoding="utf-8")


def test_version_and_help_import_no_library():
    code = "import sys; from shards.__main__ import main; main(sys.argv[1:]); assert 'pyarrow' not in sys.modules"
    for flag in ("--version", "--help"):
        done = run(sys.executable, "-c", code, flag)
        assert (done.returncode, done.stderr) == (0, "")


def test_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"shards {metadata.version('stylefinetune')}\n"


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("shards ver", ["verify"]),
        ("shards merge --st", ["--stage"]),
        ("shards assemble --encode_f", ["--encode_format"]),
        ("shards assemble --encode_format pix", ["pixels"]),
    ],
)
def test_bash_completes_commands_flags_and_values(line, completions, capsys):
    assert main(["completion", "bash"]) == 0
    assert bash_completions(capsys.readouterr().out, line) == completions


def test_zsh_reads_its_script(capsys, tmp_path):
    zsh = shutil.which("zsh") or pytest.skip("zsh is missing")
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_shards").write_text(capsys.readouterr().out)
    assert run(zsh, "-n", tmp_path / "_shards").stderr == ""


def test_completion_knows_two_shells(capsys):
    assert main(["completion", "fish"]) == 2
    assert capsys.readouterr().err == "usage: shards completion bash|zsh\n"


def test_the_module_exits_with_the_commands_code(tmp_path):
    done = run(sys.executable, "-m", "shards", "mean", tmp_path, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


INTERRUPT = """
import os, runpy, signal, sys

class Finder:
    def find_spec(name, *_):
        if name == "shards.commands":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


@pytest.mark.parametrize(
    "start",
    [
        "runpy.run_module('shards', run_name='__main__')",  # python -m shards
        "from shards.__main__ import run; run()",  # the console script
    ],
)
def test_ctrl_c_during_the_imports_is_one_line(start):
    done = run(sys.executable, "-c", INTERRUPT + start, "assemble", "--list=x", "--out=y")
    assert done.returncode == 130
    assert done.stderr == "stopped while loading; nothing was started\n"


def test_a_console_script_starts_the_command_line():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert metadata.EntryPoint("shards", scripts["shards"], "console_scripts").load() is run_process
