import math
import threading

import numpy as np
import pytest
import torch

from stylefinetune.distributed.world import World
from stylefinetune.evaluation import average_precision
from stylefinetune.evaluation.average_precision import MeanAveragePrecision, average_precisions

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


class Rank:
    """One of several ranks, each of which is a thread."""

    def __init__(self, rank, size, sums, barrier):
        self.rank, self.size, self._sums, self._barrier = rank, size, sums, barrier

    def sum(self, values):
        self._sums[self.rank] = values
        self._barrier.wait(60)
        total = torch.stack(self._sums).sum(dim=0)
        self._barrier.wait(60)
        return total


def on_ranks(slices, function, logits, is_label):
    """Return the result on each rank, which has these rows."""
    sums, barrier = [None] * len(slices), threading.Barrier(len(slices))
    results = [None] * len(slices)

    def compute(rank, rows):
        precision = MeanAveragePrecision(function)
        for part in rows:  # the batches of the rank
            precision.add(logits[part], is_label[part])
        results[rank] = precision.total(Rank(rank, len(slices), sums, barrier))

    threads = [threading.Thread(target=compute, args=each) for each in enumerate(slices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def by_definition(scores, is_label):
    """The mean over the pictures of a class of the precision among those that score at least as high."""
    return np.mean([is_label[scores >= score].mean() for score in scores[is_label]])


def drawn(count=40, classes=5, seed=0):
    """Logits of which some are equal, and labels: one for each picture, and more for some."""
    random = np.random.default_rng(seed)
    logits = random.integers(-6, 7, (count, classes)).astype(np.float32) / 2
    is_label = np.eye(classes, dtype=bool)[random.integers(0, classes, count)] | (random.random((count, classes)) < 0.2)
    return torch.from_numpy(logits), torch.from_numpy(is_label)


def test_average_precision_is_that_of_its_definition():
    logits, is_label = drawn()
    probabilities = logits.double().sigmoid()
    found = average_precisions(probabilities, is_label)
    expected = [by_definition(*columns) for columns in zip(logits.numpy().T, is_label.numpy().T, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(logits)))
    assert (
        average_precisions(logits.double().sigmoid()[order], is_label[order]) == found
    )  # bit for bit, with equal scores


@pytest.mark.parametrize("size", [1e-7, 0.1, 1])  # of an untrained network's logits, and of a trained one's
@pytest.mark.parametrize("function", ["softmax", "bce"])
def test_the_rounding_of_logits_makes_no_difference(function, size):
    """Ranks have slices of other sizes, of which a network computes logits that differ in their last digits."""
    random = np.random.default_rng(0)
    logits = torch.from_numpy(np.repeat(random.normal(0, size, (8, 5)), 5, axis=0))
    is_label = drawn()[1]
    found = []
    for seed in range(5):
        noise = np.random.default_rng(seed).uniform(-2e-7, 2e-7, logits.shape)
        precision = MeanAveragePrecision(function)
        precision.add(logits + torch.from_numpy(noise), is_label)
        found.append(precision.total(ALONE))
    assert len(set(found)) == 1


def test_different_probabilities_are_told_apart():
    """Also those that are almost 0 or 1."""
    logits = torch.tensor([-20, -19.9999, -0.0001, 0, 0.0001, 19.99, 20], dtype=torch.float64)[:, None]
    is_label = torch.tensor([True, False, True, False, True, False, True])[:, None]
    expected = by_definition(logits.numpy()[:, 0], is_label.numpy()[:, 0])
    assert average_precisions(logits.sigmoid(), is_label) == pytest.approx([expected], abs=1e-6)


def test_a_class_without_pictures_has_none():
    logits, is_label = drawn()
    is_label[:, 2] = False
    areas = average_precisions(logits.double().sigmoid(), is_label)
    assert [math.isnan(area) for area in areas] == [False, False, True, False, False]
    precision = MeanAveragePrecision("bce")
    precision.add(logits, is_label)
    assert precision.total(ALONE) == pytest.approx(np.nanmean(areas))


@pytest.mark.parametrize("function", ["softmax", "bce"])
@pytest.mark.parametrize("block", [2**22, 50, 1])
def test_the_mean_is_exact_and_the_same_on_any_number_of_ranks(function, block, monkeypatch):
    monkeypatch.setattr(average_precision, "_BLOCK", block)  # smaller ones are several exchanges
    logits, is_label = drawn()
    probabilities = logits.double().softmax(dim=1) if function == "softmax" else logits.double().sigmoid()
    columns = zip(probabilities.numpy().T, is_label.numpy().T, strict=True)
    expected = np.mean([by_definition(*each) for each in columns])
    alone = MeanAveragePrecision(function)
    alone.add(logits, is_label)
    assert alone.total(ALONE) == pytest.approx(expected, abs=1e-6)
    everything = np.arange(len(logits))
    slices = [[everything[:7], everything[20:33]], [everything[7:20]], [everything[:0]], [everything[33:]]]
    assert on_ranks(slices, function, logits, is_label) == [alone.total(ALONE)] * 4


def test_it_is_nan_if_a_prediction_is_not_finite():
    logits, is_label = drawn()
    logits[3, 1] = math.nan
    halves = [[np.arange(20)], [np.arange(20, 40)]]
    assert all(map(math.isnan, on_ranks(halves, "bce", logits, is_label)))
