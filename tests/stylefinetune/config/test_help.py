import re
import shlex

import pytest

from stylefinetune.config.cli import parse_config
from stylefinetune.config.help import short_help, show_help
from stylefinetune.config.keys import KEYS
from tests.programs import ROOT

COMMANDS = ["train", "check", "find_lr"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_examples_and_the_settings_that_matter_with_their_defaults(command, capsys):
    assert show_help(command, ["--run_dir=a", "--help"])
    text = capsys.readouterr().out
    assert text == short_help(command)
    assert len(text.splitlines()) < 60
    shown = re.findall(r"^  --([\w.]+)", text.partition("that matter most")[2], re.MULTILINE)
    assert len(shown) == 15
    assert set(shown) <= {*KEYS, "config"}
    assert "--data.batch_size N        pictures of an iteration, over all ranks [50]" in text
    assert "None" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_valid(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    examples = re.findall(rf"^  stylefinetune {command} (.*)", short_help(command), re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        parse_config(shlex.split(example))


def test_help_all_has_every_setting(capsys):
    assert show_help("check", ["--help", "all"])
    text = capsys.readouterr().out
    assert text.startswith("usage: stylefinetune check ")
    assert [key for key in KEYS if f"--{key} " not in text] == []
    assert re.findall(r"type:|null\)|\(default: \)", text) == []
    assert re.findall(r"default:\s+(?:True|False|\()", text) == []  # defaults are shown as they are typed
    assert '"match": "fc8_*"' in text


def test_other_arguments_show_no_help(capsys):
    assert not show_help("train", ["--run_dir=help"])
    assert capsys.readouterr().out == ""
