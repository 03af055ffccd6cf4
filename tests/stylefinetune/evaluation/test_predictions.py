import numpy as np

from stylefinetune.evaluation.predictions import Predictions


def test_the_rank_of_the_truth_counts_the_classes_with_at_least_its_logit():
    logits = np.array([[3, 2, 1], [3, 2, 1], [3, 3, 1], [1, 1, 1]], np.float32)
    found = Predictions(np.arange(4), np.array([0, 2, 1, 0]), logits, ["a", "b", "c"])
    assert found.rank_of_truth.tolist() == [1, 3, 2, 3]


def test_probabilities_are_the_softmax():
    found = Predictions(np.arange(1), np.array([0]), np.array([[0, np.log(3)]], np.float32), ["a", "b"])
    np.testing.assert_allclose(found.probabilities, [[0.25, 0.75]], rtol=1e-6)
    assert len(found.first(0)) == 0
