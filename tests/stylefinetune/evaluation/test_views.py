import pytest
import torch

from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops
from stylefinetune.evaluation.views import average_views


@pytest.fixture
def batch():
    """Return two pictures of 6x8 pixels with a crop of 4x4."""
    zero = torch.zeros(2, dtype=torch.int64)
    crops = Crops(zero + 1, zero + 2, zero.bool(), (4, 4))
    return Batch(torch.zeros(2, 6, 8, 3, dtype=torch.uint8), zero, crops, torch.arange(2), 2)


def seen(batch, **options):
    views = []

    def forward(view):
        assert view.crops.size == (4, 4)
        views.append((int(view.crops.top[0]), int(view.crops.left[0]), bool(view.crops.mirror[1])))
        return torch.zeros(2, 3)

    average_views(forward, batch, **options)
    return views


def test_ten_crops_are_the_corners_and_the_centre_and_their_mirror_images(batch):
    places = [(0, 0), (0, 4), (2, 0), (2, 4), (1, 2)]
    expected = [(*place, mirror) for mirror in (False, True) for place in places]
    assert seen(batch, crops=10, mirror=False) == expected


def test_one_crop_is_the_centre_and_its_mirror_image_on_request(batch):
    assert seen(batch, crops=1, mirror=False) == [(1, 2, False)]
    assert seen(batch, crops=1, mirror=True) == [(1, 2, False), (1, 2, True)]


def test_probabilities_are_averaged(batch):
    def forward(view):
        return torch.tensor([[2000.0, 0.0], [0.0, 0.0]]) * (-1 if view.crops.mirror[0] else 1)

    found = average_views(forward, batch, crops=1, mirror=True).exp()
    torch.testing.assert_close(found, torch.full((2, 2), 0.5, dtype=torch.float64))
    assert average_views(forward, batch, crops=1, mirror=False).isfinite().all()


def test_sigmoids_are_averaged_after_training_with_bce(batch):
    answers = iter([torch.tensor([[0.0, 3.0], [50.0, -90.0]]), torch.tensor([[2.0, 3.0], [60.0, -80.0]])])
    mean = average_views(lambda _: next(answers), batch, crops=1, mirror=True, loss="bce").sigmoid()
    assert mean[0].tolist() == pytest.approx([(0.5 + 0.8807971) / 2, 0.9525741])
    assert mean[1].tolist() == pytest.approx([1, 0], abs=1e-12)
