import shutil
import sys
import tomllib
from importlib import metadata

import pytest

from stylefinetune.__main__ import main
from tests.programs import ROOT, bash_completions, python, run

COMMANDS = ["init", "train", "evaluate", "predict", "features", "export"]
COMMANDS += ["report", "check", "weights", "dashboard", "find_lr", "serve", "doctor"]


@pytest.fixture
def call(monkeypatch):
    """Call main as a process with these arguments."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["stylefinetune", *arguments])
        return main()

    return call


def test_without_a_command_the_commands_are_listed(call, capsys):
    assert call() == 2
    assert "evaluate" in capsys.readouterr().err
    assert call("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*COMMANDS, "completion"]


def test_an_unknown_command_is_one_line_and_exit_code_2(call, capsys):
    assert call("trian", "--help") == 2
    assert capsys.readouterr().err == "error: unknown command trian; did you mean train?\n"
    assert call("xyz") == 2
    assert capsys.readouterr().err == "error: unknown command xyz; stylefinetune --help lists the commands\n"


def test_a_reader_that_ends_early_is_no_error():
    """In a real pipe, since Python writes the rest of its buffer as the process ends."""
    done = run("bash", "-c", f"{sys.executable} -m stylefinetune --help | true; exit $PIPESTATUS")
    assert done.stderr == ""
    assert done.returncode in {0, 141}  # 0 if all was written before `true` ended


def test_version_is_the_packages(call, capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == f"stylefinetune {metadata.version('stylefinetune')}\n"


WITHOUT_TORCH = """
import sys
from stylefinetune.__main__ import main
try:
    sys.exit(main())
finally:
    assert 'torch' not in sys.modules
"""


def test_version_and_help_do_not_import_torch():
    for flags in (["--version"], ["--help"], ["train", "--help"], ["check", "--run_dir=a", "-h"]):
        done = run(sys.executable, "-c", WITHOUT_TORCH, *flags)
        assert (done.returncode, done.stderr) == (0, "")
    assert "--train.max_iter" in done.stdout
    assert "Examples:" in done.stdout


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_wrong_flag_is_reported_without_importing_torch(command):
    done = run(sys.executable, "-c", WITHOUT_TORCH, command, "--train.max_iter=many")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert "train.max_iter" in done.stderr


def test_flags_beside_a_solver_are_checked_with_it(call, monkeypatch):
    modules = []
    monkeypatch.setattr("runpy.run_module", lambda name, **_: modules.append(name))
    assert call("train", "--train.max_iter=many", "--solver=solver.prototxt") == 0
    assert modules == ["stylefinetune.train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_the_module_of_its_name(call, command, monkeypatch):
    modules = []
    monkeypatch.setattr("runpy.run_module", lambda name, **options: modules.append((name, options, sys.argv[1:])))
    call(command, "--run_dir", "a")
    assert modules == [(f"stylefinetune.{command}", {"run_name": "__main__", "alter_sys": True}, ["--run_dir", "a"])]


def test_the_exit_code_and_the_message_are_the_commands(tmp_path):
    done = run(sys.executable, "-m", "stylefinetune", "evaluate", tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def bash_script():
    return python("-m", "stylefinetune", "completion", "bash").stdout


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("stylefinetune eva", ["evaluate"]),
        ("stylefinetune predict --ch", ["--checkpoint"]),
        ("stylefinetune train --optim.base", ["--optim.base_lr"]),
        ("stylefinetune check --engine dee", ["deepspeed"]),
        ("stylefinetune export --to on", ["onnx"]),
        ("stylefinetune init --ar", ["--arch"]),
    ],
)
def test_bash_completes_commands_flags_and_values(bash_script, line, completions):
    assert bash_completions(bash_script, line) == completions


def test_zsh_reads_its_script(tmp_path):
    zsh = shutil.which("zsh") or pytest.skip("zsh is missing")
    script = python("-m", "stylefinetune", "completion", "zsh").stdout
    (tmp_path / "_stylefinetune").write_text(script)
    assert run(zsh, "-n", tmp_path / "_stylefinetune").stderr == ""


def test_completion_knows_two_shells(call, capsys):
    assert call("completion") == 2
    assert capsys.readouterr().err == "usage: stylefinetune completion bash|zsh\n"


def test_a_console_script_starts_the_command_line():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert metadata.EntryPoint("stylefinetune", scripts["stylefinetune"], "console_scripts").load() is main


def test_a_command_imports_only_what_it_needs():
    """W&B is imported by the rank that logs, the crawler with --solver, the others where they are used."""
    unused = "wandb shards.assembly shards.download aria2p requests deepspeed torchvision webdataset pandas"
    code = (
        "import sys; from stylefinetune import train, check, weights; "
        "import stylefinetune.evaluate, stylefinetune.predict; "
        "import stylefinetune.export.__main__; "
        f"print(*(name for name in {unused.split()} if name in sys.modules))"
    )
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
