import math

import pytest
import torch

from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.distributed.world import World
from stylefinetune.tracking.metrics import LossWindow, TestAccumulator

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_accuracy_count_and_mean_loss():
    total = TestAccumulator(ALONE.device)
    total.add(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    total.add(torch.tensor([[0.0, 2.0]]), torch.tensor([1]))
    total.add(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    result = total.total(ALONE)
    assert (result.correct, result.count) == (2, 3)
    assert result.accuracy == pytest.approx(2 / 3)
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert result.loss == pytest.approx((2 * right + wrong) / 3, rel=1e-12)


def test_a_tie_counts_as_wrong_as_in_caffe():
    total = TestAccumulator(ALONE.device)
    total.add(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert total.total(ALONE).correct == 1


def test_the_window_keeps_the_last_losses_across_gathers():
    window = LossWindow(3, [])
    for loss in (1.0, 2.0):
        window.add(torch.tensor(loss), 0)
    assert window.gather(ALONE) == [1.0, 2.0]
    assert window.gather(ALONE) == [1.0, 2.0]
    for loss in (3.0, 4.0):
        window.add(torch.tensor(loss), 0)
    assert window.gather(ALONE) == [2.0, 3.0, 4.0]
    for loss in (5.0, 6.0, 7.0, 8.0):
        window.add(torch.tensor(loss), 0)
    assert window.gather(ALONE) == [6.0, 7.0, 8.0]


def test_a_resumed_window_continues_from_its_losses():
    window = LossWindow(3, [1.0, 2.0, 3.0])
    window.add(torch.tensor(4.0), 0)
    assert window.gather(ALONE) == [2.0, 3.0, 4.0]


def test_the_first_iteration_that_is_not_finite_is_kept_after_its_loss_left_the_window():
    window = LossWindow(1, [])
    for iteration, loss in enumerate([1.0, 2.0, math.inf, 3.0, math.nan, 4.0]):
        window.add(torch.tensor(loss), iteration)
    assert window.gather(ALONE) == [4.0]
    assert window.first_not_finite(ALONE) == 2
    assert LossWindow(1, []).first_not_finite(ALONE) is None


def test_a_corrupt_picture_is_not_counted():
    total = TestAccumulator(ALONE.device)
    total.add(torch.tensor([[2.0, 0.0], [9.0, 0.0]]), torch.tensor([0, CORRUPT_LABEL]))
    result = total.total(ALONE)
    assert (result.correct, result.count, result.accuracy) == (1, 1, 1.0)
    assert result.loss == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-12)


def test_a_picture_with_several_labels_is_correct_if_one_of_them_is_above_all_others():
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 2.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 0, 0, CORRUPT_LABEL, 0])
    pairs = torch.tensor([[0, 0, 1, 1, 2, 3, 4, 4, 4], [0, 2, 0, 1, 0, 0, 0, 1, 2]])  # of a tie, of all three classes
    total = TestAccumulator(ALONE.device, "bce")
    total.add(logits, labels, pairs)
    result = total.total(ALONE)
    assert (result.correct, result.count) == (2, 4)
    targets = torch.tensor([[1.0, 0, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    others = logits[[0, 1, 2, 4]]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(others, targets).item()
    assert result.loss == pytest.approx(expected, rel=1e-6)
    assert result.map is None
