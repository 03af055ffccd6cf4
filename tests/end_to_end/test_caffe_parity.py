"""Training has the results of the original Caffe: the comparisons of `python -m benchmarks.caffe_parity`, as tests."""

import numpy as np
import pytest

from benchmarks import caffe_checks, caffe_full_size, stochastic_parity
from benchmarks.caffe_results import read_micro

pytestmark = pytest.mark.usefixtures("forked_ranks")

FAST_AND_SLOW_RANKS = [1, 2, pytest.param(3, marks=pytest.mark.slow)]


def assert_holds(rows):
    rows = list(rows)
    assert rows
    assert not [str(row) for row in rows if not row.holds]


@pytest.fixture(scope="module")
def turned(golden, tmp_path_factory):
    """The results of scratch if the tie of iteration 34 is decided the other way."""
    run_dir = tmp_path_factory.mktemp("turned") / "run"
    return caffe_checks.run_turned(golden, read_micro(golden, "scratch"), run_dir)


@pytest.fixture
def compared(golden, tmp_path):
    """Runs one of Caffe's solvers and compares the run with Caffe's."""

    def run(kind, ranks, precision, turned=None):
        caffe_checks.run_solver(golden, kind, ranks, tmp_path, "--checkpoint.snapshot=1", precision=precision)
        return list(caffe_checks.compare_run(tmp_path, read_micro(golden, kind), kind, ranks, turned))

    return run


@pytest.mark.parametrize("ranks", FAST_AND_SLOW_RANKS)
@pytest.mark.parametrize("kind", ["finetune", "scratch", "itersize2"])
def test_sixty_iterations_on_any_number_of_ranks(compared, turned, kind, ranks):
    """Losses, tests, weights and momenta; a batch of 10 on 3 ranks is 4, 3 and 3."""
    assert_holds(compared(kind, ranks, "float32", None if kind == "finetune" else turned))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kind", ["scratch", "itersize2"])
def test_in_float64_the_tie_is_decided_as_in_caffe(compared, kind, ranks):
    rows = compared(kind, ranks, "float64")
    assert_holds(rows)
    assert {row.verdict for row in rows} == {"holds"}


def test_a_tie_decided_the_other_way_is_far_from_caffe(golden, turned):
    truth = read_micro(golden, "scratch")
    assert caffe_checks.largest(turned.losses[: caffe_checks.TIE + 1], truth.losses[: caffe_checks.TIE + 1]) < 1e-5
    assert caffe_checks.largest(turned.losses, truth.losses) > 1e-4


@pytest.mark.parametrize("kind", ["finetune", "scratch"])
def test_the_first_iteration_blob_by_blob(golden, tmp_path, kind):
    caffe_checks.run_solver(golden, kind, 1, tmp_path, "--checkpoint.snapshot=1", "--train.max_iter=1")
    assert_holds(caffe_checks.compare_first_iteration(golden, kind, read_micro(golden, kind), tmp_path))


def test_a_solver_state_of_caffe_is_resumed_at_its_position_in_the_data(golden, tmp_path, turned):
    """From iteration 20; Caffe restarts at the first picture, and so has other results."""
    assert_holds(caffe_checks.compare_resumed(golden, read_micro(golden, "scratch"), tmp_path, turned))


def test_a_batch_of_two_on_three_ranks(golden, tmp_path):
    assert_holds(caffe_checks.compare_small_batches(golden, tmp_path))


def test_the_full_size_forward_pass(golden):
    assert_holds(caffe_full_size.compare_forward(golden))


def test_the_full_size_gradients_and_three_steps(golden):
    assert_holds(caffe_full_size.compare_steps(golden))


@pytest.mark.parametrize("form", ["original", "pixels"])
def test_pictures_from_shards_are_bitwise_equal_to_caffes(golden, tmp_path, form):
    assert_holds(caffe_checks.compare_pictures(golden, tmp_path, form))


@pytest.mark.slow
def test_means_over_many_seeds_with_mirrors_crops_and_dropout(golden, tmp_path):
    values = np.array(list(stochastic_parity.run_seeds(golden, tmp_path, range(stochastic_parity.SEEDS))))
    assert_holds(stochastic_parity.compare(values, stochastic_parity.read_summary(golden)))
