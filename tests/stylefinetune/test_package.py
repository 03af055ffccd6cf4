"""The package itself: `from stylefinetune import fine_tune, evaluate, predict, load`."""

import sys

from tests.programs import run


def test_the_functions_stay_functions_when_the_commands_are_imported():
    code = (
        "import stylefinetune.evaluate, stylefinetune.predict; from stylefinetune.predict import build_parser; "
        "from stylefinetune import evaluate, fine_tune, load, predict; "
        "print(*(f.__name__ for f in (evaluate, fine_tune, load, predict)))"
    )
    assert run(sys.executable, "-c", code).stdout.split() == ["evaluate", "fine_tune", "load", "predict"]


def test_the_import_is_light():
    code = "import sys, stylefinetune; print(sorted({'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"
