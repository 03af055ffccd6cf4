import shutil

import pytest


@pytest.fixture
def work(golden, tmp_path, monkeypatch):
    """A copy of the micro net, its pictures and solvers, as the working directory: paths are relative to it."""
    folder = tmp_path / "work"
    shutil.copytree(golden / "micro", folder, ignore=shutil.ignore_patterns("*.npz", "resume", "stat"))
    monkeypatch.chdir(folder)
    return folder
