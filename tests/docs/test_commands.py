"""The code in the documents: the shell, Python and YAML accept it, and the project's programs accept the flags."""

import dataclasses
import importlib
import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError

import shards.__main__ as data_side
import stylefinetune.__main__ as training_side
from shards.commands import build_parser
from shards.config.cli import parse_assemble_config
from shards.config.schema import AssembleConfig
from stylefinetune.config.cli import parse_config
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError
from tests.programs import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    """Return the blocks of code of all pages in a language."""
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    found = [(page, block[1]) for page in PAGES for block in pattern.findall(page.read_text(encoding="utf-8"))]
    return [
        pytest.param(textwrap.dedent(text), id=f"{page.stem}-{number}") for number, (page, text) in enumerate(found)
    ]


SCRIPTS = {"launch/train.sh": "train", "launch/deepspeed.sh": "train", "slurm/finetune.sh": "train"}
SCRIPTS |= {f"stylefinetune.{name}": name for name in training_side._COMMANDS}


def commands(block):
    """Return the words of each command of a block, without comments and redirections."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        parts = " ".join(shlex.quote(word) for word in shlex.split(line, comments=True))
        parts = re.split(r" (?:'&&'|'\|'|'&') ?", parts)
        found += [shlex.split(re.split(r" '>+'", part)[0]) for part in parts]
    return found


def check(words):
    """Parse the flags of a command of the project, wherever it is in a line."""
    for place, word in enumerate(words):
        command, flags = None, words[place + 1 :]
        if word in SCRIPTS:
            command = SCRIPTS[word]
        elif word == "stylefinetune" and flags and flags[0] in training_side._COMMANDS:
            command, *flags = flags
        elif word == "shards" and flags and flags[0] in data_side._COMMANDS:
            check_shards(flags)
            return
        elif word == "slurm/assemble.sh":
            check_shards(["assemble", *without(flags, "--partitions")])
            return
        if command and not {"--help", "FLAGS", "...", "$FLAGS"} & {*flags}:
            check_training(command, flags)
            return


def without(flags, name):
    return [flag for at, flag in enumerate(flags) if name not in (flag, flags[at - 1] if at else "")]


def check_shards(flags):
    command, *flags = flags
    if command == "assemble" and "--help" not in flags:
        required = ["--list=a", "--out=b"] if "--config" in flags else []  # they may be in the file
        parse_assemble_config([*required, *without_missing_files(flags)])
    elif "--help" not in flags:
        build_parser(command).parse_args(flags)


def check_training(command, flags):
    flags = without_missing_files(flags[1:] if flags[:1] == ["--"] else flags)  # TorchX separates them
    if command in {"train", "check"}:
        parse_config(flags, read_solver=lambda _: {})
    else:
        module = importlib.import_module(f"stylefinetune.{command}")
        module = importlib.import_module(f"{module.__name__}.__main__") if hasattr(module, "__path__") else module
        module.build_parser().parse_args(flags)


def without_missing_files(flags):
    """Leave out a --config of the reader's."""
    missing = {at for at, flag in enumerate(flags) if flag == "--config" and not Path(ROOT, flags[at + 1]).is_file()}
    return [flag for at, flag in enumerate(flags) if at not in missing and at - 1 not in missing]


@pytest.mark.parametrize("block", blocks("bash"))
def test_a_block_of_commands_is_accepted(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for words in commands(block):
        try:
            check(words)
        except (ArgumentError, UserError, ValueError, SystemExit) as error:
            pytest.fail(f"{' '.join(words)}: {error}")


@pytest.mark.parametrize("block", blocks("python"))
def test_a_block_of_python_is_accepted(block):
    compile(block, "page", "exec")


@pytest.mark.parametrize("block", blocks("yaml"))
def test_a_block_of_yaml_is_accepted_and_has_existing_keys(block, tmp_path):
    keys = yaml.safe_load(block)
    if {*keys} <= {field.name for field in dataclasses.fields(Config)}:
        (tmp_path / "page.yaml").write_text(block)
        parse_config(["--config", str(tmp_path / "page.yaml")])
    else:
        assert {*keys} <= {field.name for field in dataclasses.fields(AssembleConfig)}


@pytest.mark.parametrize(
    "line",
    [
        "torchrun --nproc_per_node 2 -m stylefinetune.train --train.epoch 3",
        "docker run image shards assemble --lists a --out b",
        "stylefinetune evaluate runs/mine --crop 10   # ten",
        "cd x && sbatch slurm/finetune.sh --optim.base_lr fast",
    ],
)
def test_a_wrong_flag_is_noticed(line):
    with pytest.raises((ArgumentError, UserError, ValueError), match=r"unknown|unrecognized|[Ee]xpected"):
        check(commands(line)[-1])
