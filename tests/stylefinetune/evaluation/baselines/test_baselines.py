import torch

from stylefinetune.evaluation.baselines.baselines import FITS, Features, rank_by_baselines, score_ranks
from stylefinetune.evaluation.metrics import wilson_interval

CPU = torch.device("cpu")


def blobs(count, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    values = torch.randn(count, 8, generator=generator) + 6 * torch.eye(8)[labels] + 1
    return Features(values, labels, "layer")


def test_both_classifiers_recognize_classes_that_are_apart():
    steps = []
    train, test = blobs(140, 7, 0), blobs(70, 7, 1)
    wrong = Features(test.values, torch.cat((test.labels[:60], (test.labels[60:] + 1) % 7)), "layer")
    ranks = rank_by_baselines(train, wrong, 7, 0, CPU, lambda: steps.append(1))
    assert len(steps) == FITS
    for found in (ranks.knn, ranks.linear_probe):
        assert (found == 1).tolist() == [True] * 60 + [False] * 10


def test_the_scores_count_first_and_fifth_places():
    score = score_ranks(torch.tensor([1, 1, 2, 5, 6]))
    assert (score.correct, score.accuracy, score.top5) == (2, 0.4, 0.8)
    assert score.accuracy_interval == wilson_interval(2, 5)


def test_a_class_that_ties_with_the_true_one_is_before_it():
    """Of three training pictures in one place, each has another class: nothing tells the classes apart."""
    train = Features(torch.ones(3, 2), torch.arange(3), "layer")
    ranks = rank_by_baselines(train, Features(torch.ones(1, 2), torch.tensor([0]), "layer"), 3, 0, CPU, lambda: None)
    assert ranks.knn.tolist() == [3]
