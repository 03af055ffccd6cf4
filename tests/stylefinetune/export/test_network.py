import dataclasses
import json

import pytest
import torch

from stylefinetune.checkpoint import checkpoint
from stylefinetune.export.check import expected_logits
from stylefinetune.export.network import MEAN_TENSOR, TrainedNetwork


@pytest.mark.parametrize("name", ["trained", "resnet"])
def test_the_network_with_pixels_as_input_computes_the_logits_of_predict(request, name, open_network):
    network, pictures = open_network(request.getfixturevalue(name))
    with torch.no_grad():
        found = network.with_pixels_as_input()(pictures.cropped)
    expected = expected_logits(network, pictures)
    assert (expected[0] - expected[1]).abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_the_scale_is_a_part_of_the_standard_deviation(resnet, open_network):
    network, pictures = open_network(resnet)
    data = dataclasses.replace(network.saved.config.data, scale=0.5)
    config = dataclasses.replace(network.saved.config, data=data)
    scaled = TrainedNetwork(dataclasses.replace(network.saved, config=config))
    assert scaled.std.tolist() == [116, 114, 112]
    with torch.no_grad():
        found = scaled.with_pixels_as_input()(pictures.cropped)
    torch.testing.assert_close(found, expected_logits(scaled, pictures), rtol=1e-5, atol=1e-5)


def test_the_description_says_how_to_prepare_a_picture(resnet):
    network = TrainedNetwork(checkpoint.read_checkpoint(resnet))
    description = json.loads(network.description(normalizes=False))
    assert description["classes"] == ["Noir", "Hazy", "Bright"]
    assert description["input"] == {"shape": ["batch", 3, 64, 64], "type": "float32"}
    assert description["preprocessing"] == {
        "resize": "shorter_side",
        "size": 72,
        "interpolation": "bicubic",
        "antialias": True,
        "crop": "center",
        "crop_size": [64, 64],
        "normalization": {
            "in_file": False,
            "channels": "rgb",
            "mean": [124.0, 116.0, 103.0],
            "std": [58.0, 57.0, 56.0],
        },
    }
    assert (network.arch, network.stem, description["output"]) == ("resnet18", "resnet18_iter_7", "softmax")


def test_the_description_of_caffes_input_names_the_mean_picture(trained):
    network = TrainedNetwork(checkpoint.read_checkpoint(trained))
    preprocessing = network.describe(normalizes=True)["preprocessing"]
    assert (preprocessing["resize"], preprocessing["size"], preprocessing["antialias"]) == ("warp", [48, 48], False)
    assert preprocessing["normalization"]["mean"] == f"the tensor {MEAN_TENSOR}"
    assert preprocessing["normalization"]["channels"] == "bgr"
    assert network.mean.shape == (3, 43, 43)
    assert torch.equal(network.mean, network.saved.means[1][2:45, 2:45].flip(-1).permute(2, 0, 1))
