import numpy as np
import pytest
import torch

from stylefinetune.evaluation.baselines import knn
from stylefinetune.evaluation.baselines.knn import knn_scores

CPU = torch.device("cpu")


def votes(train, labels, test, classes):
    """Compute all similarities at once, in float64."""
    train, test = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (train, test))
    similarities = test @ train.T
    nearest = np.argsort(-similarities, axis=1)[:, :20]
    found = np.zeros((len(test), classes))
    for row, places in enumerate(nearest):
        np.add.at(found[row], labels[places], np.exp(similarities[row, places] / 0.07))
    return found


@pytest.mark.parametrize("block", [7, 64, 4096])
@pytest.mark.parametrize("count", [5, 150])
def test_the_votes_are_those_of_all_similarities_in_float64(block, count, monkeypatch):
    monkeypatch.setattr(knn, "_BLOCK", block)
    random = np.random.default_rng(count)
    train, test, labels = random.normal(size=(count, 6)), random.normal(size=(40, 6)), random.integers(4, size=count)
    found = knn_scores(*(torch.tensor(each) for each in (train.astype("f4"), labels, test.astype("f4"))), 4, CPU)
    np.testing.assert_allclose(found.numpy(), votes(train, labels, test, 4), rtol=1e-4, atol=1e-4)


def test_a_class_without_a_near_picture_has_no_votes():
    train = torch.tensor([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    labels = torch.arange(2).repeat_interleave(20)
    found = knn_scores(train, labels, torch.tensor([[2.0, 0.1], [0.1, 2.0]]), 3, CPU)
    assert (found > 0).tolist() == [[True, False, False], [False, True, False]]
