"""Reads files of weights: Caffe's, safetensors, checkpoints and PyTorch's; and writes safetensors."""

import argparse
import os
import re
from pathlib import Path
from pickle import UnpicklingError  # raised by torch.load with weights_only=True; nothing is unpickled here
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from stylefinetune.caffe.files import HDF5_SUFFIXES, read_caffemodel
from stylefinetune.errors import UserError
from stylefinetune.models.layer_names import module_name

CAFFEMODEL = ".caffemodel"
PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # .pth.tar too
BLOBS = ("weight", "bias")
# Where training programs store a network's tensors in their checkpoints; the averaged ones come first, as in timm.
_NESTED = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model", "net")
# Prefixes that DataParallel, torch.compile and Lightning add to all names.
_PREFIXES = ("module.", "_orig_mod.", "model.")

_MODEL = "model.safetensors"  # of a checkpoint
_AVERAGE = "ema/"  # prefix of the average of the weights in a checkpoint, see optim.weight_average

Tensors = dict[str, torch.Tensor]


def save_tensors(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of other new files; save_file alone lets only its owner read it.

    Raises:
        OSError: it can't be written.
    """
    path.touch()
    mode = path.stat().st_mode  # by the umask
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        if not (code := re.search(r"\(os error (\d+)\)", str(error))):
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    path.chmod(mode)


def read_weights(path: Path) -> Tensors:
    """Return the tensors of a file by our networks' names, for example fc7.weight.

    Those of a checkpoint's folder are the average of the weights, if it has one, as in `evaluate`.

    Raises:
        UserError: it can't be read.
    """
    if path.is_dir() and not (path / _MODEL).is_file():
        raise UserError(
            f"weights: the folder {path} has no {_MODEL}; give a checkpoint, such as RUN/checkpoints/iter_1000"
        )
    if path.is_dir():
        return read_weights(path / _MODEL) | _read_average(path)
    if path.suffix in (CAFFEMODEL, *HDF5_SUFFIXES):  # HDF5 is refused with its remedy
        return {
            f"{module_name(layer)}.{BLOBS[index] if index < len(BLOBS) else index}": torch.from_numpy(blob)
            for layer, blobs in read_caffemodel(path).items()
            for index, blob in enumerate(blobs)
        }
    if path.suffix in PYTORCH_SUFFIXES:
        return _read_pytorch(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"weights: {path} is neither a .caffemodel, a .safetensors, a .pth nor a checkpoint's folder (RUN/best)"
        )
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"weights: {path} can't be read: No such file or directory") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} can't be read: {error}") from error


def _read_average(checkpoint: Path) -> Tensors:
    """Return the average of the weights of a checkpoint, and of its running statistics; empty if it has none."""
    path = checkpoint / "optimizer.safetensors"
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(_AVERAGE)]  # noqa: SIM118 -- it is no mapping
            return {name.removeprefix(_AVERAGE): file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} can't be read: {error}") from error


def without_common_prefix(tensors: Tensors) -> Tensors:
    """Return the tensors without a prefix that a training program has added to all names."""
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return without_common_prefix({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _read_pytorch(path: Path) -> Tensors:
    try:
        # Only tensors and plain containers are read. Many training programs also store their flags in a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"weights: {path} can't be read: {error.strerror or error}") from error
    except UnpicklingError as error:
        raise UserError(
            f"weights: {path} isn't a PyTorch file of tensors only, and other objects are not loaded, since they could "
            "run any program; save the state_dict alone, best as .safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"weights: {path} can't be read: it is damaged or not a PyTorch file") from error
    tensors = _find_tensors(content)
    if not tensors:
        raise UserError(f"weights: {path} holds no state_dict, a mapping of names to tensors")
    return tensors


def _find_tensors(content: Any) -> Tensors:  # noqa: ANN401 -- of any file
    """Return the mapping of names to tensors in the content of a file, or in one of its usual places there."""
    if not isinstance(content, dict):
        return {}
    for key in _NESTED:
        if tensors := _find_tensors(content.get(key)):
            return tensors
    named = {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    # An average of weights counts its updates in a scalar beside them.
    return without_common_prefix({name: tensor for name, tensor in named.items() if "." in name or tensor.ndim > 0})
