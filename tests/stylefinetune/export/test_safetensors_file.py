import json

import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file

from stylefinetune.export.check import compare_logits, expected_logits
from stylefinetune.export.network import DESCRIPTION, MEAN_TENSOR
from stylefinetune.export.safetensors_file import read_logits, write_safetensors


def test_torchvision_loads_the_tensors(resnet, open_network, tmp_path):
    network, pictures = open_network(resnet)
    path = tmp_path / "net.safetensors"
    write_safetensors(path, network, pictures)
    net = torchvision.models.resnet18(num_classes=3).eval()
    net.load_state_dict(load_file(path))
    with safe_open(path, "pt") as file:
        normalization = json.loads(file.metadata()[DESCRIPTION])["preprocessing"]["normalization"]
    mean, std = (torch.tensor(normalization[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        compare_logits(expected_logits(network, pictures), net((pictures.cropped - mean) / std))
    compare_logits(expected_logits(network, pictures), read_logits(path, network, pictures))


def test_a_mean_picture_is_a_tensor(trained, open_network, tmp_path):
    network, pictures = open_network(trained)
    write_safetensors(tmp_path / "net", network, pictures)
    assert torch.equal(load_file(tmp_path / "net")[MEAN_TENSOR], network.mean)
    compare_logits(expected_logits(network, pictures), read_logits(tmp_path / "net", network, pictures))
