"""Writes a network's tensors as a safetensors file, under the names of its library, and loads it again."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from stylefinetune.export.network import DESCRIPTION, MEAN_TENSOR, Normalized, TrainedNetwork
from stylefinetune.export.pictures import Pictures
from stylefinetune.models.build import build_model
from stylefinetune.models.weight_files import save_tensors


def write_safetensors(path: Path, network: TrainedNetwork, _pictures: Pictures) -> None:
    """Write the file; its metadata has the description.

    A mean picture is one more tensor, cropped to the input.
    """
    tensors = {name: tensor.contiguous() for name, tensor in network.net.state_dict().items()}
    if network.mean.shape[1:] != (1, 1):
        tensors[MEAN_TENSOR] = network.mean
    metadata = {"format": "pt", DESCRIPTION: network.description(normalizes=False)}
    save_tensors(tensors, path, metadata)


@torch.no_grad()
def read_logits(path: Path, network: TrainedNetwork, pictures: Pictures) -> torch.Tensor:
    """Return the logits that a new network with the file's tensors and description gives, [B, classes]."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
        normalization = json.loads(file.metadata()[DESCRIPTION])["preprocessing"]["normalization"]
    mean = tensors.pop(MEAN_TENSOR, None)
    if mean is None:
        mean = torch.tensor(normalization["mean"]).reshape(3, 1, 1)
    saved = network.saved
    net = build_model(saved.config.model, len(saved.progress.classes), [network.input_size], seed=0)
    net.load_state_dict(tensors)
    std = torch.tensor(normalization["std"])
    return Normalized(net, mean, std, normalization["channels"]).eval()(pictures.cropped)
