import pytest

from benchmarks import caffe_checks
from tests.programs import python


@pytest.fixture(scope="module")
def forked_ranks():
    """Runs the comparisons' ranks as forks instead of under torchrun."""

    def run_on_ranks(ranks, module, arguments, folder):
        done = python("-m", module, *arguments, ranks=ranks, cwd=folder)
        return done.returncode, done.stderr

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caffe_checks, "run_on_ranks", run_on_ranks)
        yield
