"""The trainer's numbers are the original Caffe's: what `python -m benchmarks.caffe_parity` shows, as tests."""

import numpy as np
import pytest

from benchmarks import caffe_checks, caffe_full_size, stochastic_parity
from benchmarks.caffe_results import read_micro

# The runs that meet the tie of caffe_checks.TIE with one thread a rank, and so are over 1e-5 after it. All others are
# held to 1e-5 to their end; on another processor the tie may fall to another run.
TIED = {("scratch", 2), ("itersize2", 1), ("itersize2", 2)}


def assert_holds(rows):
    rows = list(rows)
    assert rows
    assert not [str(row) for row in rows if not row.holds]


@pytest.fixture
def parity(golden, tmp_path):
    """Runs one of Caffe's solvers and holds the run against Caffe's."""

    def run(kind, ranks, precision="float32"):
        caffe_checks.run_solver(golden, kind, ranks, tmp_path, "--checkpoint.snapshot=1", precision=precision)
        ties = (kind, ranks) in TIED and precision == "float32"
        return caffe_checks.compare_run(tmp_path, read_micro(golden, kind), kind, ranks, ties=ties)

    return run


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kind", ["finetune", "scratch", "itersize2"])
def test_sixty_iterations_on_any_number_of_ranks(parity, kind, ranks):
    """Losses, tests, weights and momenta; a batch of 10 on 3 ranks is 4, 3 and 3."""
    assert_holds(parity(kind, ranks))


@pytest.mark.parametrize(("kind", "ranks"), [("scratch", 2), ("scratch", 3), ("itersize2", 1)])
def test_where_no_order_of_sums_shows_no_tie_is_met(parity, kind, ranks):
    assert_holds(parity(kind, ranks, "float64"))


@pytest.mark.parametrize("kind", ["finetune", "scratch"])
def test_the_first_iteration_blob_by_blob(golden, tmp_path, kind):
    caffe_checks.run_solver(golden, kind, 1, tmp_path, "--checkpoint.snapshot=1", "--train.max_iter=1")
    assert_holds(caffe_checks.compare_first_iteration(golden, kind, read_micro(golden, kind), tmp_path))


def test_caffes_solver_state_is_gone_on_with_in_its_place_of_the_data(golden, tmp_path):
    """From iteration 20; Caffe itself would begin again with the first picture, and end elsewhere."""
    assert_holds(caffe_checks.compare_resumed(golden, read_micro(golden, "scratch"), tmp_path))


def test_a_batch_of_two_on_three_ranks(golden, tmp_path):
    assert_holds(caffe_checks.compare_small_batches(golden, tmp_path))


def test_the_full_size_forward_pass(golden):
    assert_holds(caffe_full_size.compare_forward(golden))


def test_the_full_size_gradients_and_three_steps(golden):
    assert_holds(caffe_full_size.compare_steps(golden))


@pytest.mark.parametrize("form", ["original", "pixels"])
def test_pictures_through_shards_are_bitwise_caffes(golden, tmp_path, form):
    assert_holds(caffe_checks.compare_pictures(golden, tmp_path, form))


@pytest.mark.slow
def test_means_over_many_seeds_with_mirrors_crops_and_dropout(golden, tmp_path):
    values = np.array(list(stochastic_parity.run_seeds(golden, tmp_path, range(stochastic_parity.SEEDS))))
    assert_holds(stochastic_parity.compare(values, stochastic_parity.read_summary(golden)))
