"""Writes a network as a program of torch.export, whose input is pixels, and loads it again.

It needs no Python code of the network: `torch.export.load(FILE).module()`.
"""

import io
from pathlib import Path

import torch

from stylefinetune.export.network import DESCRIPTION, TrainedNetwork
from stylefinetune.export.pictures import Pictures


def export_program(network: TrainedNetwork, pictures: Pictures) -> torch.export.ExportedProgram:
    """Trace the network with two pictures; the number of pictures remains free."""
    example = pictures.cropped[:1].repeat(2, 1, 1, 1)  # a batch of 1 would become part of the program
    with torch.no_grad():
        return torch.export.export(
            network.with_pixels_as_input(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )


def write_program(path: Path, network: TrainedNetwork, pictures: Pictures) -> None:
    """Write the file; its extra file has the description."""
    content = io.BytesIO()  # if it wrote to a full disk, PyTorch would abort with the stack of its C++ functions
    about = {DESCRIPTION: network.description(normalizes=True)}
    torch.export.save(export_program(network, pictures), content, extra_files=about)
    path.write_bytes(content.getbuffer())


@torch.no_grad()
def read_logits(path: Path, _network: TrainedNetwork, pictures: Pictures) -> torch.Tensor:
    """Return the logits that the file gives, [B, classes]."""
    with path.open("rb") as file:
        return torch.export.load(file).module()(pictures.cropped)
