import pytest
import torch
from torch.nn import functional

from shards.format.order import rank_slice
from stylefinetune.config.train import TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.mixing.mix import Mix, mix_labels
from stylefinetune.data.sampler import CORRUPT_LABEL
from stylefinetune.data.transforms import Crops
from stylefinetune.losses.loss import Loss, sum_losses, to_probabilities

CPU = torch.device("cpu")
CLASSES, COUNT = 5, 11
WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)


def drawn(corrupt=()):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (COUNT,), generator=generator)
    logits = torch.randn(COUNT, CLASSES, generator=generator) * 3
    labels[list(corrupt)] = CORRUPT_LABEL
    return logits.requires_grad_(), labels


def batch_of(labels, mix=None, weight=None, pairs=None):
    nothing = torch.zeros(len(labels), dtype=torch.int64)
    crops = Crops(nothing, nothing, nothing.bool(), (1, 1))
    return Batch(
        torch.zeros(len(labels), 1, 1, 3, dtype=torch.uint8), labels, crops, nothing, COUNT, (), mix, weight, pairs
    )


def on_ranks(ranks, settings, logits, labels, mix=None, weight=None, iter_size=1):
    """Return the sum of the ranks' losses."""
    loss = Loss(TrainConfig(**settings), CPU)
    parts = []
    for rank in range(ranks):
        part = rank_slice(COUNT, rank, ranks)
        own = labels[part]
        if mix is not None and len(own):
            own = torch.cat((labels[(part.start - 1) % COUNT][None], own))
        parts.append(loss(logits[part], batch_of(own, mix, weight), iter_size))
    return torch.stack(parts).sum()


def assert_same(mine, theirs, logits):
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (mine, theirs)]
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("ranks", [1, 2, 3, 12])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_the_loss_is_pytorchs_of_the_whole_batch(ranks, smoothing, weights):
    logits, labels = drawn()
    tensor = None if weights is None else torch.tensor(weights)
    weight = None if tensor is None else float(tensor[labels].sum())
    settings = {"label_smoothing": smoothing, "class_weights": weights}
    theirs = functional.cross_entropy(logits, labels, tensor, label_smoothing=smoothing)
    assert_same(on_ranks(ranks, settings, logits, labels, weight=weight), theirs, logits)


@pytest.mark.parametrize("ranks", [1, 2, 3, 12])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_the_loss_of_mixed_labels_is_pytorchs_of_the_whole_batch(ranks, smoothing, weights):
    logits, labels = drawn()
    mix = Mix(0.3)
    tensor = None if weights is None else torch.tensor(weights)
    targets = mix_labels(torch.cat((labels[-1:], labels)), CLASSES, mix)
    theirs = functional.cross_entropy(logits, targets, tensor, label_smoothing=smoothing)
    settings = {"label_smoothing": smoothing, "class_weights": weights}
    assert_same(on_ranks(ranks, settings, logits, labels, mix, weight=7.0), theirs, logits)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mix", [None, Mix(0.3)], ids=["one label", "mixed"])
def test_binary_cross_entropy_is_pytorchs_of_the_whole_batch(ranks, smoothing, mix):
    logits, labels = drawn()
    targets = functional.one_hot(labels, CLASSES).float()
    if mix:
        targets = mix_labels(torch.cat((labels[-1:], labels)), CLASSES, mix)
    smoothed = targets * (1 - smoothing) + smoothing / CLASSES  # as in timm's BinaryCrossEntropy
    theirs = functional.binary_cross_entropy_with_logits(logits, smoothed)
    assert_same(on_ranks(ranks, {"loss": "bce", "label_smoothing": smoothing}, logits, labels, mix), theirs, logits)


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"loss": "bce", "label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("mix", [None, Mix(0.3)], ids=["one label", "mixed"])
def test_a_corrupt_picture_has_no_loss_and_counts_as_a_picture_of_the_batch(settings, mix):
    logits, labels = drawn(corrupt=(4,))
    loss = on_ranks(2, settings, logits, labels, mix)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[4].abs().sum() == 0
    assert (gradient[[3, 5]].abs().sum(dim=1) > 0).all()
    _, complete = drawn()
    others = torch.autograd.grad(on_ranks(2, settings, logits, complete, mix), logits)[0]
    assert torch.equal(gradient[0], others[0])  # the sum is divided by the same number


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_auxiliary_classifiers_have_weighted_losses_of_their_own(loss):
    logits, labels = drawn()
    heads = torch.stack((logits, 2 * logits, logits - 1), dim=1)
    each = [Loss(TrainConfig(loss=loss), CPU)(head, batch_of(labels), 2) for head in heads.unbind(dim=1)]
    found = Loss(TrainConfig(loss=loss), CPU, (0.3, 0.5, 1.0))(heads, batch_of(labels), 2)
    torch.testing.assert_close(found, 0.3 * each[0] + 0.5 * each[1] + each[2])


def test_micro_batches_share_the_loss():
    logits, labels = drawn()
    whole = on_ranks(1, {}, logits, labels)
    assert on_ranks(1, {}, logits, labels, iter_size=4).item() == pytest.approx(whole.item() / 4)


@pytest.mark.parametrize(("function", "expected"), [("softmax", 1.3862944), ("bce", 0.6931472)])
def test_the_loss_of_a_test_is_plain_and_without_corrupt_pictures(function, expected):
    labels = torch.tensor([0, 3, CORRUPT_LABEL])
    assert sum_losses(torch.zeros(3, 4).double(), labels, function).item() == pytest.approx(2 * expected)


def test_probabilities_are_those_of_the_loss():
    logits = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert torch.equal(to_probabilities(logits, "softmax"), logits.softmax(1))
    assert torch.equal(to_probabilities(logits, "bce"), logits.sigmoid())


def drawn_targets():
    """Targets with one to three labels for each picture."""
    random = torch.Generator().manual_seed(1)
    return (torch.rand(COUNT, CLASSES, generator=random) < 0.4) | functional.one_hot(drawn()[1], CLASSES).bool()


@pytest.mark.parametrize("ranks", [1, 3, 12])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mix", [None, Mix(0.3)], ids=["plain", "mixed"])
def test_the_loss_of_several_labels_is_pytorchs_of_the_whole_batch(ranks, smoothing, mix):
    (logits, labels), is_label = drawn(), drawn_targets()
    targets = is_label.float()
    if mix:
        targets = targets * mix.share + targets.roll(1, dims=0) * (1 - mix.share)
    theirs = functional.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / CLASSES)
    loss, parts = Loss(TrainConfig(loss="bce", label_smoothing=smoothing), CPU), []
    for rank in range(ranks):
        rows = torch.arange(COUNT)[rank_slice(COUNT, rank, ranks)]
        with_partner = torch.cat(((rows[:1] - 1) % COUNT, rows)) if mix else rows
        pairs = is_label[with_partner].nonzero().T
        parts.append(loss(logits[rows], batch_of(labels[with_partner], mix, pairs=pairs), 1))
    assert_same(torch.stack(parts).sum(), theirs, logits)


def test_a_corrupt_picture_with_several_labels_has_no_loss():
    (logits, labels), is_label = drawn(corrupt=(4,)), drawn_targets()
    loss = Loss(TrainConfig(loss="bce"), CPU)(logits, batch_of(labels, pairs=is_label.nonzero().T), 1)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[4].abs().sum() == 0
    others = torch.arange(COUNT) != 4
    each = functional.binary_cross_entropy_with_logits(logits, is_label.float(), reduction="none").mean(dim=1)
    assert loss.item() == pytest.approx(each[others].sum().item() / COUNT, rel=1e-6)
    tested = sum_losses(logits.double(), labels, "bce", is_label.nonzero().T)
    assert tested.item() == pytest.approx(each[others].sum().item(), rel=1e-6)
