"""Fixtures of the tests of training."""

import shutil

import pytest
from torch import nn


@pytest.fixture
def work(golden, tmp_path, monkeypatch):
    """A copy of the micro net, its pictures and solvers, as the working directory: paths are relative to it."""
    folder = tmp_path / "work"
    shutil.copytree(golden / "micro", folder, ignore=shutil.ignore_patterns("*.npz", "resume", "stat"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def uninitialized(monkeypatch):
    """Networks are built without drawing their weights, which would take minutes for all of them."""
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
