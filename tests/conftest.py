"""What several tests share: the original Caffe's results, where they are at hand."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden():
    """The folder of the original Caffe's results."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the original Caffe's results (../shared/golden) aren't here")
    return folder
