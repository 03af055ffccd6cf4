"""Loads pretrained weights into a network, by layer name."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stylefinetune.caffe.files import HDF5_SUFFIXES, read_caffemodel
from stylefinetune.caffe.pretrained import locate_published
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import module_name, split_parameter

BLOBS = ("weight", "bias")
MAX_LISTED_LAYERS = 10
IGNORING = "Ignoring source layer "  # Caffe's log line


def load_weights(net: nn.Module, files: str, log: Callable[[str], None]) -> set[str]:
    """Copy the layers of weight files into `net`, in place.

    Args:
        net: the network; layers that a file lacks keep their weights.
        files: paths or names of published weights, separated by commas; later ones override earlier ones.
        log: called with a line for each layer that the network lacks.

    Returns:
        The names of the copied layers.

    Raises:
        UserError: a file can't be read, or a layer's shape differs.
    """
    paths = map(locate_published, files.split(","))
    return {layer for path in paths for layer in _copy_layers(net, path, read_weights(path), log)}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by our networks' names, for example fc7.weight.

    Raises:
        UserError: it can't be read.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix in (".caffemodel", *HDF5_SUFFIXES):  # HDF5 is refused with its remedy
        return {
            f"{module_name(layer)}.{BLOBS[index] if index < len(BLOBS) else index}": torch.from_numpy(blob)
            for layer, blobs in read_caffemodel(path).items()
            for index, blob in enumerate(blobs)
        }
    if path.suffix != ".safetensors":
        raise UserError(f"weights: {path} is neither a .caffemodel, a .safetensors nor a checkpoint's folder")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} can't be read: {error}") from error


def shapes_match(found: torch.Size, expected: torch.Size) -> bool:
    """Compare shapes like Caffe: old files store the weights of a fully connected layer as 1 x 1 x out x in."""
    extra = len(found) - len(expected)
    return extra >= 0 and found[extra:] == expected and all(size == 1 for size in found[:extra])


def _copy_layers(net: nn.Module, path: Path, tensors: dict[str, torch.Tensor], log: Callable[[str], None]) -> set[str]:
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    ours, theirs = (dict.fromkeys(map(_layer, names)) for names in (own, tensors))
    for layer in theirs:
        if layer not in ours:
            log(f"{IGNORING}{layer}")
    if not ours.keys() & theirs:
        layers = ", ".join(list(theirs)[:MAX_LISTED_LAYERS])
        raise UserError(f"weights: {path} shares no layer with the network; it holds {layers}")
    shared = {name: tensor for name, tensor in tensors.items() if _layer(name) in ours}
    missing = [name for name in own if _layer(name) in theirs and name not in tensors]
    surplus = [name for name in shared if name not in own]
    if surplus or (missing and path.suffix == ".caffemodel"):
        name, lacking = (surplus[0], "network") if surplus else (missing[0], "file")
        raise _mismatch(f"{path} and the network differ in {name}, which the {lacking} lacks", name)
    for name, tensor in shared.items():
        own[name].data.copy_(_reshaped(tensor, own[name].shape, name, path))
    return set(map(_layer, shared))


def _layer(name: str) -> str:
    return split_parameter(name)[0]


def _reshaped(tensor: torch.Tensor, shape: torch.Size, name: str, path: Path) -> torch.Tensor:
    if not shapes_match(tensor.shape, shape):
        theirs, ours = ("x".join(map(str, sizes)) for sizes in (tensor.shape, shape))
        raise _mismatch(f"{path}: {name} is {theirs} in the file and {ours} in the network", name)
    return tensor.reshape(shape)


def _mismatch(difference: str, name: str) -> UserError:
    remedy = f"to learn {_layer(name)} from scratch, rename the layer (model.last_layer)"
    return UserError(f"weights: {difference}; {remedy}")
