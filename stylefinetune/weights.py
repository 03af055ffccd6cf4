"""Starting weights, copied by layer name as `caffe train -weights` does."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stylefinetune.caffe_files import read_caffemodel
from stylefinetune.errors import UserError

BLOBS = ("weight", "bias")


def load_weights(net: nn.Module, files: str, tell: Callable[[str], None]) -> None:
    """Copies the layers of each of `files` (a comma between two, later ones win) into `net`, in place.

    Layers that the net lacks are named through `tell`; layers that a file lacks keep what they have.

    Raises:
        UserError: a file can't be read, or a layer's shape differs.
    """
    for name in files.split(","):
        _copy_layers(net, Path(name), _read(Path(name)), tell)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Returns a file's tensors by the names that our networks give them."""
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix == ".caffemodel":
        return {
            f"{layer}.{BLOBS[place]}": torch.from_numpy(blob)
            for layer, blobs in read_caffemodel(path).items()
            for place, blob in enumerate(blobs[: len(BLOBS)])
        }
    if path.suffix != ".safetensors":
        raise UserError(f"weights: {path} is neither a .caffemodel, a .safetensors nor a checkpoint's folder")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} can't be read: {error}") from error


def _copy_layers(net: nn.Module, path: Path, tensors: dict[str, torch.Tensor], tell: Callable[[str], None]) -> None:
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    unknown = [layer for layer in layers if not any(f"{layer}.{blob}" in own for blob in _blobs_of(layer, tensors))]
    for layer in unknown:
        tell(f"Ignoring source layer {layer}")
    if len(unknown) == len(layers):
        raise UserError(f"weights: {path} shares no layer with the network; it holds {', '.join(layers)}")
    for name, tensor in tensors.items():
        if name in own:
            own[name].data.copy_(_shaped(tensor, own[name].shape, name, path))


def _blobs_of(layer: str, tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name.rpartition(".")[2] for name in tensors if name.rpartition(".")[0] == layer]


def _shaped(tensor: torch.Tensor, shape: torch.Size, name: str, path: Path) -> torch.Tensor:
    """Checks a tensor's shape; V1 files write a fully connected layer's weights as 1 x 1 x out x in."""
    kept = [size for size in tensor.shape if size != 1]
    if kept != [size for size in shape if size != 1]:
        theirs, ours = ("x".join(map(str, sizes)) for sizes in (tensor.shape, shape))
        layer = name.rpartition(".")[0]
        raise UserError(
            f"weights: {path} has {name} as {theirs}, the network as {ours}; "
            f"to learn {layer} from scratch, rename the layer (model.last_layer)"
        )
    return tensor.reshape(shape)
