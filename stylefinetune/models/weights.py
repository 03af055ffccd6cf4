"""Loads pretrained weights into a network, by layer name."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from stylefinetune.caffe.pretrained import locate_published
from stylefinetune.config.schema import CAFFE_GRAPH, CAFFENET
from stylefinetune.errors import UserError, joined_sizes
from stylefinetune.models.architectures import classifier_layers
from stylefinetune.models.caffe_graph.blobs import name_statistics
from stylefinetune.models.layer_names import split_parameter
from stylefinetune.models.published_weights import (
    DEFAULT,
    fetch_published_weights,
    published_names,
    read_published_weights,
    rename_tensors,
)
from stylefinetune.models.weight_files import CAFFEMODEL, Tensors, read_weights

BEST_CAFFENET = "bvlc_reference_caffenet"  # DEFAULT of CaffeNet
MAX_LISTED_LAYERS = 10
_OF_CAFFE = (CAFFENET, CAFFE_GRAPH)  # Caffe's rules apply
IGNORING = "Ignoring source layer "  # Caffe's log line


@dataclasses.dataclass
class LoadedLayers:
    """What became of the layers."""

    copied: set[str]  # layers of the network whose weights were copied
    ignored: list[str]  # layers of the files that the network lacks
    reset: list[str]  # classifier layers that start from random weights, since the classes differ


def load_weights(
    net: nn.Module,
    files: str,
    log: Callable[[str], None],
    arch: str = CAFFENET,
    input_size: tuple[int, int] = (224, 224),
) -> LoadedLayers:
    """Copy the layers of weight files into `net`, in place.

    Args:
        net: the network; layers that a file lacks keep their weights.
        files: paths or names of published weights, separated by commas; later ones override earlier ones.
        log: called with a line for each layer that the network lacks, and what else a reader of the log should know.
        arch: the network's name.
        input_size: (height, width) of the network's input in pixels, to which timm fits some weights.

    Raises:
        UserError: a file can't be read, or a layer's shape differs.
    """
    loaded = LoadedLayers(set(), [], [])
    for name in files.split(","):
        if arch in _OF_CAFFE:
            path = locate_published(BEST_CAFFENET if name == DEFAULT and arch == CAFFENET else name)
            _copy_layers(net, path, name_statistics(net, read_weights(path)), loaded)
        elif _is_published(arch, name):
            _copy_tensors(net, name, read_published_weights(arch, name, input_size), loaded)
        else:
            _copy_tensors(net, name, rename_tensors(arch, read_weights(locate_published(name))), loaded)
    for line in _describe(net, loaded, arch):
        log(line)
    return loaded


def fetch_weights(files: str, arch: str, input_size: tuple[int, int]) -> None:
    """Download those of the weights that are published for a network of torchvision or timm, unless they are cached.

    Raises:
        UserError: they can't be downloaded.
    """
    for name in files.split(","):
        if arch not in _OF_CAFFE and _is_published(arch, name):
            fetch_published_weights(arch, name, input_size)


def _is_published(arch: str, name: str) -> bool:
    """Return whether `name` is the name of weights instead of a file; a name that is neither is reported as one."""
    return name in published_names(arch) or (name.isidentifier() and not Path(name).exists())


def _describe(net: nn.Module, loaded: LoadedLayers, arch: str) -> list[str]:
    if arch in _OF_CAFFE:
        return [f"{IGNORING}{layer}" for layer in loaded.ignored]
    layers = list(dict.fromkeys(_layer(name) for name, _ in net.named_parameters()))
    random = [layer for layer in layers if layer not in loaded.copied]
    lines = [f"Copied the weights of {len(layers) - len(random)} of {len(layers)} layers"]
    lines += [f"Random weights in {summarize_names(random)}"] if random else []
    return [*lines, *([f"{IGNORING[:-1]}s {summarize_names(loaded.ignored)}"] if loaded.ignored else [])]


def summarize_names(names: Iterable[str], limit: int = MAX_LISTED_LAYERS) -> str:
    """Join names; of many, the first ones and their number."""
    listed = list(names)
    if len(listed) <= limit:
        return ", ".join(listed)
    return f"{', '.join(listed[:limit])}, ... ({len(listed)} in total)"


def shapes_match(found: torch.Size, expected: torch.Size) -> bool:
    """Compare shapes like Caffe: old files store the weights of a fully connected layer as 1 x 1 x out x in."""
    extra = len(found) - len(expected)
    return extra >= 0 and found[extra:] == expected and all(size == 1 for size in found[:extra])


def _copy_layers(net: nn.Module, path: Path, tensors: Tensors, loaded: LoadedLayers) -> None:
    """Copy the layers of a file into CaffeNet, by Caffe's rules: a layer is copied whole, or it is an error."""
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    ours, theirs = (dict.fromkeys(map(_layer, names)) for names in (own, tensors))
    loaded.ignored += [layer for layer in theirs if layer not in ours]
    if not ours.keys() & theirs:
        raise _no_layer(path, theirs)
    shared = {name: tensor for name, tensor in tensors.items() if _layer(name) in ours}
    missing = [name for name in own if _layer(name) in theirs and name not in tensors]
    surplus = [name for name in shared if name not in own]
    if surplus or (missing and path.suffix == CAFFEMODEL):
        name, lacking = (surplus[0], "network") if surplus else (missing[0], "file")
        raise _mismatch(f"{path} and the network differ in {name}, which the {lacking} lacks", name)
    for name, tensor in shared.items():
        own[name].data.copy_(_reshaped(tensor, own[name].shape, name, path))
    loaded.copied |= set(map(_layer, shared))


def _copy_tensors(net: nn.Module, source: str, tensors: Tensors, loaded: LoadedLayers) -> None:
    """Copy the tensors that the network and a file have in common, except a classifier of other classes."""
    own = net.state_dict()  # shares its memory with the network
    classifier = classifier_layers(net)
    shared = {name: tensor for name, tensor in tensors.items() if name in own}
    ignored = dict.fromkeys(_layer(name) for name in tensors if name not in own)
    differing = [name for name, tensor in shared.items() if tensor.shape != own[name].shape]
    reset = dict.fromkeys(_layer(name) for name in differing)
    for name in differing:
        if _layer(name) not in classifier:
            theirs, ours = (joined_sizes(sizes) for sizes in (shared[name].shape, own[name].shape))
            raise UserError(
                f"weights: {source}: {name} is {theirs} in the file and {ours} in the network; use weights of this "
                "network (model.arch) and, if it is built for one input size, set data.crop_size to that of the weights"
            )
    copied = {name: tensor for name, tensor in shared.items() if _layer(name) not in reset}
    if not copied:
        raise _no_layer(source, ignored)
    for name, tensor in copied.items():
        own[name].copy_(tensor)
    loaded.copied = (loaded.copied | set(map(_layer, copied))) - reset.keys()
    loaded.ignored += ignored
    loaded.reset += reset


def _no_layer(source: Path | str, layers: Iterable[str]) -> UserError:
    listed = ", ".join(list(layers)[:MAX_LISTED_LAYERS])
    return UserError(f"weights: {source} shares no layer with the network; it holds {listed}")


def _layer(name: str) -> str:
    return split_parameter(name)[0]


def _reshaped(tensor: torch.Tensor, shape: torch.Size, name: str, path: Path) -> torch.Tensor:
    if not shapes_match(tensor.shape, shape):
        theirs, ours = (joined_sizes(sizes) for sizes in (tensor.shape, shape))
        raise _mismatch(f"{path}: {name} is {theirs} in the file and {ours} in the network", name)
    return tensor.reshape(shape)


def _mismatch(difference: str, name: str) -> UserError:
    remedy = f"to learn {_layer(name)} from scratch, rename the layer (model.last_layer, or in the prototxt)"
    return UserError(f"weights: {difference}; {remedy}")
