import importlib
import re
import shlex

import pytest

from stylefinetune import dashboard, features, report, weights
from stylefinetune.doctor import __main__ as doctor
from stylefinetune.errors import run_command
from stylefinetune.evaluate import evaluate
from stylefinetune.export import __main__ as export
from stylefinetune.init import __main__ as init
from stylefinetune.predict import predict
from stylefinetune.serve import __main__ as serve
from tests.programs import ROOT

COMMANDS = {
    "dashboard": dashboard.make_dashboard,
    "doctor": doctor.doctor,
    "evaluate": evaluate,
    "export": export.export,
    "features": features.features,
    "init": init.init,
    "predict": predict,
    "report": report.report,
    "serve": serve.serve,
    "weights": weights.fetch_weights,
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict", "INPUTS and --checkpoint are required"),
        ("predict a.jpg", "--checkpoint is required"),
        ("predict a.jpg --checkpoint", "argument --checkpoint: expected one argument"),
        ("predict a.jpg --checkpoint x --top few", "--top: Expected an int. Got value: few"),
        ("predict a.jpg --checkpoint x --ema maybe", "--ema: Expected a bool. Got value: maybe"),
        ("evaluate", "CHECKPOINT is required"),
        ("evaluate run --splt test", "unknown argument --splt; did you mean --split?"),
        ("evaluate run --nothing 1", "unknown argument --nothing; --help lists the flags"),
        ("features", "CHECKPOINT and INPUTS are required"),
        ("features run a.jpg", "--out is missing; it must be a file that ends with .parquet or .npy"),
        ("export run", "--to is required"),
        ("report", "RUNS is required"),
        ("serve", "CHECKPOINT is required"),
        ("weights", "NAME is required"),
        ("weights vgg", "there are no published weights vgg; name one of bvlc_reference_caffenet, "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(line, message, capsys):
    command, *arguments = line.split()
    assert run_command(COMMANDS[command], arguments) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(f"error: {message}")


def test_every_parser_of_a_command_is_covered():
    folder = ROOT / "stylefinetune"
    modules = {path.stem: path for path in folder.glob("*.py")} | {
        path.parent.name: path for path in folder.glob("*/__main__.py")
    }
    assert {name for name, path in modules.items() if "command_parser(" in path.read_text()} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_begins_with_what_the_command_does_and_with_valid_examples(command):
    module = importlib.import_module(COMMANDS[command].__module__)
    parser = module.build_parser()
    _, purpose, examples, *_ = parser.format_help().split("\n\n")
    assert purpose.endswith(".")
    name, *lines = examples.splitlines()
    assert name == "Examples:"
    for line in lines:
        program = f"  stylefinetune {command}"
        assert line.startswith(program)
        parser.parse_args(shlex.split(line.removeprefix(program)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_fits_in_80_columns_and_shows_only_defaults_that_say_something(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = importlib.import_module(COMMANDS[command].__module__).build_parser().format_help()
    assert [line for line in text.splitlines() if len(line) > 80 and not line.startswith("  stylefinetune ")] == []
    assert re.findall("<class|type:|null", text) == []
    assert re.search(r"default:[^)]*\)\s+\(default:", text) is None
    assert re.findall(r"default:\s+(?:True|False|\()", text) == []
