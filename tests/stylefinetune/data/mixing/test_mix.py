import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from stylefinetune.data.mixing.mix import Mix, Mixer, cut_mix, mix_labels, mix_pictures
from stylefinetune.data.sampler import CORRUPT_LABEL

SIZE = (11, 14)


def batch(count=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SIZE, generator=generator), torch.randint(0, classes, (count,), generator=generator)


def with_partner(tensor):
    """Return a whole batch as one rank reads it: the last one, the partner of the first, is in front."""
    return torch.cat((tensor[-1:], tensor))


def torchvisions(transform, share):
    """Let a transform of torchvision draw this share of the own label."""
    transform._dist.sample = lambda _size: torch.tensor(share, dtype=torch.float64)
    return transform


@pytest.mark.parametrize("share", [0.0, 0.3, 0.71, 1.0])
def test_mixup_is_torchvisions_bit_for_bit(share):
    pictures, labels = batch()
    expected, targets = torchvisions(v2.MixUp(num_classes=4), share)(pictures.clone(), labels)
    mix = Mix(share)
    assert torch.equal(mix_pictures(with_partner(pictures), with_partner(labels), mix), expected)
    assert torch.equal(mix_labels(with_partner(labels), 4, mix), targets)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.71, 0.999])
@pytest.mark.parametrize("seed", range(4))
def test_cutmix_is_torchvisions_bit_for_bit(share, seed):
    """Also where the rectangle is cut at the edges of the picture."""
    pictures, labels = batch()
    torch.manual_seed(seed)
    column, row = int(torch.randint(SIZE[1], (1,))), int(torch.randint(SIZE[0], (1,)))
    torch.manual_seed(seed)
    expected, targets = torchvisions(v2.CutMix(num_classes=4), share)(pictures.clone(), labels)
    mix = cut_mix(share, (row, column), SIZE)
    assert torch.equal(mix_pictures(with_partner(pictures), with_partner(labels), mix), expected)
    assert torch.equal(mix_labels(with_partner(labels), 4, mix), targets)


def test_the_slices_of_a_batch_are_mixed_like_the_whole_batch():
    pictures, labels = batch(7)
    for mix in (Mix(0.3), cut_mix(0.4, (5, 5), SIZE)):
        whole = mix_pictures(with_partner(pictures), with_partner(labels), mix)
        slices = [(6, 0, 1, 2), (2, 3, 4), (4, 5, 6), ()]  # the indices of a rank's pictures, after the partner's
        parts = [mix_pictures(pictures[list(part)], labels[list(part)], mix) for part in slices]
        assert torch.equal(torch.cat(parts), whole)
        targets = [mix_labels(labels[list(part)], 4, mix) for part in slices]
        assert torch.equal(torch.cat(targets), mix_labels(with_partner(labels), 4, mix))


@pytest.mark.parametrize("mix", [Mix(0.3), cut_mix(0.4, (5, 5), SIZE)], ids=["mixup", "cutmix"])
def test_a_corrupt_picture_is_mixed_with_no_other(mix):
    pictures, labels = batch()
    labels[2] = CORRUPT_LABEL
    mixed, targets = (
        mix_pictures(with_partner(pictures), with_partner(labels), mix),
        mix_labels(with_partner(labels), 4, mix),
    )
    for unmixed in (2, 3):
        assert torch.equal(mixed[unmixed], pictures[unmixed])
    assert targets[2].tolist() == [0, 0, 0, 0]
    assert targets[3].argmax() == labels[3]
    assert targets[3].max() == 1
    assert targets.sum(dim=1).tolist() == pytest.approx([1, 1, 0, 1, 1])
    assert not torch.equal(mixed[4], pictures[4])


def test_without_a_mix_the_pictures_are_the_same_object():
    pictures, labels = batch()
    assert mix_pictures(pictures, labels, None) is pictures


def test_a_draw_depends_only_on_the_seed_and_the_number():
    mixer = Mixer(0.2, 1.0, 1.0, seed=3, size=SIZE)
    assert [mixer.draw(number) for number in (5, 9, 5)] == [mixer.draw(number) for number in (5, 9, 5)]
    draws = [mixer.draw(number) for number in range(20)]
    assert len({draw.share for draw in draws}) > 10
    assert draws != [Mixer(0.2, 1.0, 1.0, seed=4, size=SIZE).draw(number) for number in range(20)]


def test_both_methods_take_turns_at_random_and_a_probability_leaves_batches_out():
    draws = [Mixer(0.2, 1.0, 0.5, seed=3, size=SIZE).draw(number) for number in range(200)]
    boxes = sum(draw.box is not None for draw in draws)
    left_out = sum(draw == Mix(1.0) for draw in draws)
    assert 25 < boxes < 75
    assert 70 < left_out < 130
    assert all(Mixer(0.2, 0.0, 1.0, 3, SIZE).draw(number).box is None for number in range(50))
    assert all(Mixer(0.0, 1.0, 1.0, 3, SIZE).draw(number).box is not None for number in range(50))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_shares_have_the_beta_distribution(alpha):
    shares = np.array([Mixer(alpha, 0.0, 1.0, 1, SIZE).draw(number).share for number in range(600)])
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_a_share_of_every_size_leaves_a_rectangle_within_the_picture():
    for number in range(100):
        mix = Mixer(0.0, 0.3, 1.0, 1, SIZE).draw(number)
        assert mix.box is not None
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= SIZE[0]
        assert 0 <= left <= right <= SIZE[1]
        assert mix.share == 1 - (bottom - top) * (right - left) / (SIZE[0] * SIZE[1])


@pytest.mark.parametrize("share", [0.3, 0.71])
def test_several_labels_are_mixed_as_torchvision_mixes_soft_labels(share):
    pictures, labels = batch()
    random = torch.Generator().manual_seed(3)
    is_label = (torch.rand(len(labels), 4, generator=random) < 0.4) | torch.nn.functional.one_hot(labels, 4).bool()
    _, targets = torchvisions(v2.MixUp(num_classes=4), share)(pictures.clone(), is_label.float())
    pairs = with_partner(is_label).nonzero().T
    assert torch.equal(mix_labels(with_partner(labels), 4, Mix(share), pairs), targets)
