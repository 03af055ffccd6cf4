import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from stylefinetune.evaluation.baselines import linear_probe
from stylefinetune.evaluation.baselines.linear_probe import PENALTIES, LinearProbe, choose_penalty, standardize_

CPU = torch.device("cpu")


def draw(count=120, dimensions=10, classes=3):
    """Return standardized features, of which three say something about the class, and labels."""
    random = np.random.default_rng(7)
    labels = random.integers(classes, size=count)
    features = random.normal(size=(count, dimensions))
    features[:, :classes] += 1.2 * np.eye(classes)[labels]
    return (features - features.mean(0)) / features.std(0), labels


def reference(features, labels, penalty, classes=3):
    """Return the weights and biases that minimize the same loss, by SciPy in float64."""
    count, dimensions = features.shape
    hot = np.eye(classes)[labels]

    def loss(flat):
        weight, bias = flat[:-classes].reshape(dimensions, classes), flat[-classes:]
        logs = log_softmax(features @ weight + bias, axis=1)
        slopes = (np.exp(logs) - hot) / count
        gradient = np.concatenate([(features.T @ slopes + penalty * weight).ravel(), slopes.sum(axis=0)])
        return -(hot * logs).sum() / count + penalty / 2 * (weight**2).sum(), gradient

    start = np.zeros((dimensions + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}).x
    return found[:-classes].reshape(dimensions, classes), found[-classes:]


@pytest.mark.parametrize("block", [16, 4096])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_the_scores_are_those_of_scipy_in_float64(block, penalty, monkeypatch):
    monkeypatch.setattr(linear_probe, "_BLOCK", block)
    features, labels = draw()
    probe = LinearProbe(10, 3, CPU)
    values = torch.tensor(features, dtype=torch.float32)
    probe.fit(values, torch.tensor(labels), torch.arange(100), penalty)
    weight, bias = reference(features[:100], labels[:100], penalty)
    # A constant in all biases changes no probability.
    expected = log_softmax(features @ weight + bias, axis=1)
    np.testing.assert_allclose(probe.scores(values).log_softmax(dim=1).numpy(), expected, atol=2e-3)


def test_the_penalty_is_the_one_that_is_best_on_pictures_that_are_held_out():
    features, labels = draw(count=60, dimensions=40)
    steps = []
    values = torch.tensor(features, dtype=torch.float32)
    found = choose_penalty(LinearProbe(40, 3, CPU), values, torch.tensor(labels), 3, lambda: steps.append(1))
    order = np.random.RandomState(np.random.MT19937(3)).permutation(60)
    held_out, rest = order[:12], order[12:]
    qualities = {}
    for penalty in PENALTIES:
        weight, bias = reference(features[rest], labels[rest], penalty)
        logs = log_softmax(features[held_out] @ weight + bias, axis=1)
        accuracy = (logs.argmax(axis=1) == labels[held_out]).mean()
        qualities[penalty] = (accuracy, logs[np.arange(12), labels[held_out]].mean())
    assert found == max(PENALTIES, key=qualities.__getitem__)
    assert len({quality[0] for quality in qualities.values()}) > 1  # the penalties make a difference
    assert len(steps) == len(PENALTIES)


def test_features_are_standardized_by_the_training_pictures():
    train, test = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[4.0, 6.0]])
    standardize_(train, test)
    assert train.tolist() == [[-1, 0], [1, 0]]
    assert test.tolist() == [[2, 1]]
