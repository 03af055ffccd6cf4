"""Loads pretrained weights into a network by layer name."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stylefinetune.caffe.files import read_caffemodel
from stylefinetune.caffe.pretrained import locate_published
from stylefinetune.errors import UserError

BLOBS = ("weight", "bias")


MAX_NAMED = 10  # layers that an error names


def load_weights(net: nn.Module, files: str, tell: Callable[[str], None]) -> None:
    """Copies the layers of each of `files` (a comma between two, later ones win) into `net`, in place.

    Each is a path or the name of published weights.

    Layers that the net lacks are named through `tell`; layers that a file lacks keep what they have.

    Raises:
        UserError: a file can't be read, or a layer's shape differs.
    """
    for path in map(locate_published, files.split(",")):
        _copy_layers(net, path, read_weights(path), tell)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Returns a file's tensors by the names that our networks give them, such as fc7.weight.

    Raises:
        UserError: it can't be read.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix == ".caffemodel":
        return {
            f"{layer}.{BLOBS[place] if place < len(BLOBS) else place}": torch.from_numpy(blob)
            for layer, blobs in read_caffemodel(path).items()
            for place, blob in enumerate(blobs)
        }
    if path.suffix != ".safetensors":
        raise UserError(f"weights: {path} is neither a .caffemodel, a .safetensors nor a checkpoint's folder")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} can't be read: {error}") from error


def shapes_agree(found: torch.Size, wanted: torch.Size) -> bool:
    """Compares shapes as Caffe does: an old file writes a fully connected layer's weights as 1 x 1 x out x in."""
    extra = len(found) - len(wanted)
    return extra >= 0 and found[extra:] == wanted and all(size == 1 for size in found[:extra])


def _copy_layers(net: nn.Module, path: Path, tensors: dict[str, torch.Tensor], tell: Callable[[str], None]) -> None:
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    ours, theirs = (dict.fromkeys(map(_layer, names)) for names in (own, tensors))
    for layer in theirs:
        if layer not in ours:
            tell(f"Ignoring source layer {layer}")
    if not ours.keys() & theirs:
        named = ", ".join(list(theirs)[:MAX_NAMED])
        raise UserError(f"weights: {path} shares no layer with the network; it holds {named}")
    shared = {name: tensor for name, tensor in tensors.items() if _layer(name) in ours}
    missing = [name for name in own if _layer(name) in theirs and name not in tensors]
    surplus = [name for name in shared if name not in own]
    if surplus or (missing and path.suffix == ".caffemodel"):
        name, fault = (surplus[0], "which the network lacks") if surplus else (missing[0], "which the file lacks")
        raise UserError(
            f"weights: {path} and the network differ in {name}, {fault}; "
            f"to learn {_layer(name)} from scratch, rename the layer (model.last_layer)"
        )
    for name, tensor in shared.items():
        own[name].data.copy_(_shaped(tensor, own[name].shape, name, path))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _shaped(tensor: torch.Tensor, shape: torch.Size, name: str, path: Path) -> torch.Tensor:
    if not shapes_agree(tensor.shape, shape):
        theirs, ours = ("x".join(map(str, sizes)) for sizes in (tensor.shape, shape))
        raise UserError(
            f"weights: {path} has {name} as {theirs}, the network as {ours}; "
            f"to learn {_layer(name)} from scratch, rename the layer (model.last_layer)"
        )
    return tensor.reshape(shape)
