"""docs/caffe.md: every key of a solver file, and every file and flag that the page names here, exists."""

import re

from stylefinetune.caffe.schema import message_class
from stylefinetune.config.keys import KEYS
from tests.programs import ROOT

PAGE = (ROOT / "docs" / "caffe.md").read_text(encoding="utf-8")


def test_every_key_of_a_solver_file_is_explained():
    names = [field.name for field in message_class("SolverParameter").DESCRIPTOR.fields]
    assert len(names) > 30
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_every_setting_that_the_page_names_exists():
    named = set(re.findall(r"`((?:data|model|optim|train|checkpoint|tracking)\.[a-z_.]+[a-z])`", PAGE))
    assert len(named) > 10
    sections = {key.rpartition(".")[0] for key in KEYS}
    assert named - {*KEYS} - sections == set()
