import contextlib
import resource
import shutil
import sys
import tomllib
from importlib import metadata

import numpy as np
import psutil
import pytest

from shards.__main__ import main
from shards.__main__ import run as run_process
from tests.loopback import Answer
from tests.programs import ROOT, bash_completions, run


def test_assemble_finalize_and_mean(server, draw_jpg, write_list, tmp_path, capsys):
    url = server.add("/a.jpg", Answer(draw_jpg(0)))
    path = write_list([{"image_url": url, "label": 0, "split": "train"}])
    out = str(tmp_path / "out")
    assert main(["assemble", "--list", path, "--out", out, "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Downloading 1 images with 1 workers...",
        "Writing train/val for 1 successfully downloaded images.",
    ]
    assert main(["finalize", out]) == 0
    assert "1 of 1 rows" in capsys.readouterr().out
    assert main(["mean", out, "--image_size", "30"]) == 0
    assert "mean of 1 pictures" in capsys.readouterr().out
    assert np.load(tmp_path / "out" / "mean.npy").shape == (30, 30, 3)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["assemble", "--out", "x"], "--list"),
        (["assemble", "--list", "nosuch.csv", "--out", "{tmp}/out"], "nosuch.csv"),
        (["assemble", "--list", "nosuch.csv", "--out", "{tmp}/out", "--imags", "3"], "--imags"),
        (["assemble", "--list", "{tmp}/list.csv", "--out", "{tmp}/list.csv"], "list.csv"),
        (["finalize", "{tmp}/nothing"], "python -m shards assemble"),
        (["mean", "{tmp}/nothing"], "python -m shards assemble"),
        (["mean"], "DIR"),
        (["mean", "{tmp}/nothing", "--image_size", "big"], "image_size: Expected an int. Got value: big"),
        (["mean", "{tmp}/nothing", "--image_sizes", "3"], "unknown flag --image_sizes 3; did you mean --image_size?"),
        (["verify", "{tmp}/nothing", "--stag", "x"], "unknown flag --stag x; did you mean --stage?"),
        (["assemble", "--lis", "a", "--list", "b", "--out", "{tmp}/o"], "unknown flag --lis a; did you mean --list?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, part):
    (tmp_path / "list.csv").write_text("image_url,label\nhttp://127.0.0.1:1/a,0\n")
    assert main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "nothing").exists()


@contextlib.contextmanager
def limited_memory(size):
    """Let this process allocate at most `size` more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_out_of_memory_is_one_line(server, draw_jpg, write_list, tmp_path, capsys):
    path = write_list([{"image_url": server.add("/a.jpg", Answer(draw_jpg(0))), "label": 0, "split": "train"}])
    out = str(tmp_path / "out")
    assert main(["assemble", f"--list={path}", f"--out={out}"]) == 0
    with limited_memory(100 << 20):  # a sum of 4096x4096 pixels takes four times as much
        assert main(["mean", out, "--image_size=4096"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory (")
    assert error.count("\n") == 1


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    assert "assemble" in capsys.readouterr().err
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split()[0] for line in lines if line.startswith("  ")]
    assert commands == ["assemble", "finalize", "merge", "mean", "repack", "report", "verify", "completion"]


@pytest.mark.parametrize("command", ["assemble", "finalize", "merge", "mean", "repack", "report", "verify"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"python -m shards {command}" in capsys.readouterr().out


def test_an_unknown_command_is_one_line_and_exit_code_2(capsys):
    assert main(["assembel"]) == 2
    assert capsys.readouterr().err == "error: unknown command assembel; shards --help lists the commands\n"


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
