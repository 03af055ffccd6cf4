import numpy as np
import pytest
import torch

from stylefinetune.checkpoint import checkpoint
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.errors import UserError
from stylefinetune.export.pictures import COUNT, read_pictures


def test_pictures_from_all_over_the_test_split_are_read(trained):
    saved = checkpoint.read_checkpoint(trained)
    pictures = read_pictures(saved, [])
    assert len(pictures) == COUNT
    dataset = PictureDataset(
        open_split(open_index(saved.config.data), "test"), saved.config.data.phase(training=False), 0
    )
    all_pixels = np.empty((11, 48, 48, 3), np.uint8)
    dataset.read(range(11), np.arange(11), all_pixels)
    places = [int((all_pixels == picture.numpy()).all((1, 2, 3)).argmax()) for picture in pictures.pixels]
    assert places == sorted(places)
    assert {0, 10} < set(places)


def test_a_file_has_the_same_pixels_as_in_the_test_set(trained, drawn):
    saved = checkpoint.read_checkpoint(trained)
    of_file = read_pictures(saved, [drawn.folder / "test_000.jpg"])
    assert torch.equal(of_file.pixels[0], read_pictures(saved, []).pixels[0])
    assert torch.equal(of_file.cropped[0], of_file.pixels[0, 2:45, 2:45].permute(2, 0, 1).float())


def test_without_pictures_the_remedy_is_named(resnet, tmp_path):
    saved = checkpoint.read_checkpoint(resnet)
    with pytest.raises(UserError, match=r"gone.*; name some pictures to check the export with: --pictures FILE"):
        read_pictures(saved, [])
    with pytest.raises(UserError, match=r"--pictures: .*none\.jpg can't be read: No such file"):
        read_pictures(saved, [tmp_path / "none.jpg"])
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"--pictures: .*text\.jpg is not a picture"):
        read_pictures(saved, [tmp_path / "text.jpg"])
