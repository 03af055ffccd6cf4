import dataclasses

import cv2
import numpy as np
import pytest
import torch

from stylefinetune.config.data import DataConfig
from stylefinetune.errors import UserError
from stylefinetune.prediction.loader import PictureLoader
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.pictures import FetchLimits, PictureFile

CPU = torch.device("cpu")


def read(network, paths):
    with PictureLoader(network.size, network.fit, 50, 1, FetchLimits()) as loader:
        (batch,) = loader.load(map(PictureFile, paths))
    return batch.pictures


def test_the_input_is_the_centre_crop_of_the_resized_picture_minus_the_mean(saved, network, album):
    path = album.paths()[0]
    bgr = cv2.resize(cv2.imread(path), (48, 48), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    centre = (bgr - saved.means[1].numpy()[:, :, ::-1])[2:45, 2:45]
    with torch.no_grad():
        expected = network.net(torch.from_numpy(centre.transpose(2, 0, 1).copy())[None])
    torch.testing.assert_close(
        network(read(network, [path])), expected, rtol=0, atol=1e-5 * expected.abs().max().item()
    )


def test_a_batch_has_the_logits_of_its_pictures(network, album):
    pictures = read(network, album.paths())
    each = torch.cat([network(picture[None]) for picture in pictures])
    torch.testing.assert_close(network(pictures), each, rtol=0, atol=1e-5 * each.abs().max().item())


def test_views_are_averaged(saved, album):
    pictures = read(PictureNetwork(saved, CPU), album.paths())
    # Probabilities of random weights are 0 and 1; smaller scores differ between the views.
    factor = 1 / PictureNetwork(saved, CPU)(pictures).std()
    last = {name: saved.tensors[name] * factor for name in ("fc8_flickr.weight", "fc8_flickr.bias")}
    mean = torch.zeros_like(saved.means[1])  # not mirrored with the picture if it isn't symmetric
    softer = dataclasses.replace(saved, tensors=saved.tensors | last, means=(mean, mean))
    plain = PictureNetwork(softer, CPU)
    mirrored = pictures.flip(2).roll(-1, 2)  # the crop begins at column 2 of 48 and ends at 45
    both = torch.stack([plain(side).double().softmax(1) for side in (pictures, mirrored)]).mean(0)
    flipped = PictureNetwork(softer, CPU, flip=True)(pictures).softmax(1)
    ten = PictureNetwork(softer, CPU, crops=10)(pictures).softmax(1)
    torch.testing.assert_close(flipped, both, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(flipped, plain(pictures).double().softmax(1), atol=1e-3)
    assert not torch.allclose(ten, flipped, atol=1e-3)


def test_ten_crops_of_a_picture_that_keeps_its_shape_are_cut_from_the_square(saved):
    data = DataConfig(resize="shorter_side", image_size=48, crop_size=43, mean_value=(1.0,))
    config = dataclasses.replace(saved.config, data=data)
    other = dataclasses.replace(saved, config=config)
    assert PictureNetwork(other, CPU).size == (43, 43)
    assert PictureNetwork(other, CPU, crops=10).size == (48, 48)


def test_scores_that_are_not_finite_are_an_error(saved, album):
    tensors = {name: torch.full_like(tensor, torch.inf) for name, tensor in saved.tensors.items()}
    network = PictureNetwork(dataclasses.replace(saved, tensors=tensors), CPU)
    with pytest.raises(UserError, match="scores that aren't finite; choose an earlier checkpoint"):
        network(read(network, album.paths()))
