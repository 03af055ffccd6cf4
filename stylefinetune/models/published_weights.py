"""Finds, downloads and reads weights by the names under which torchvision and timm publish them.

torchvision's are stored where torch.hub stores them, $TORCH_HOME/hub/checkpoints, and timm's in the cache of
huggingface_hub.
"""

import contextlib
import fcntl
import logging
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from torch import hub

from stylefinetune.errors import UserError
from stylefinetune.models.architectures import TIMM, build_pretrained_timm, check_arch
from stylefinetune.models.weight_files import Tensors, read_weights

DEFAULT = "DEFAULT"  # the best weights of a network, as its library says
# torchvision's files of DenseNet are older than the names of its layers.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def published_names(arch: str) -> list[str]:
    """Return the names of the weights that are published for a network of torchvision or timm."""
    return [DEFAULT] if arch.startswith(TIMM) else list(_torchvision_weights(arch).__members__)


def fetch_published_weights(arch: str, name: str, input_size: tuple[int, int] | None = None) -> Path | None:
    """Download published weights, unless they are in the cache.

    Returns:
        The path of torchvision's file; None for timm, which has its own cache.

    Raises:
        UserError: there are no such weights, or they can't be downloaded.
    """
    check_arch(arch)
    _check_name(arch, name)
    if arch.startswith(TIMM):
        _read_timm(arch, input_size or (224, 224))
        return None
    url: str = _torchvision_weights(arch)[name].url
    path = Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if not path.is_file():
                _download(url, path)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}") from error
    return path


def read_published_weights(arch: str, name: str, input_size: tuple[int, int]) -> Tensors:
    """Return published weights by the names of the network's tensors, after downloading them if necessary.

    Raises:
        UserError: there are no such weights, or they can't be downloaded or read.
    """
    path = fetch_published_weights(arch, name, input_size)
    return _read_timm(arch, input_size) if path is None else rename_tensors(arch, read_weights(path))


def rename_tensors(arch: str, tensors: Tensors) -> Tensors:
    """Return tensors of torchvision's files under the present names of the network's tensors."""
    if not arch.startswith("densenet"):
        return tensors
    return {_OLD_DENSENET_NAME.sub(r"\1\2.", name): tensor for name, tensor in tensors.items()}


def _torchvision_weights(arch: str) -> Any:  # noqa: ANN401 -- an enumeration class made by torchvision
    from torchvision.models import get_model_weights  # noqa: PLC0415 -- takes seconds

    return get_model_weights(arch)


def _check_name(arch: str, name: str) -> None:
    names = published_names(arch)
    if name not in names:
        raise UserError(f"weights: {name} is no file, and {arch} has no such weights; it has {', '.join(names)}")


def _download(url: str, path: Path) -> None:
    """Download a file whose name has the start of its SHA-256, which is checked."""
    checksum = hub.HASH_REGEX.search(path.name)
    try:
        hub.download_url_to_file(url, str(path), checksum[1] if checksum else None, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; RuntimeError: another checksum
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"weights: {url} can't be downloaded ({reason}); download it elsewhere, copy it to {path.parent}, or pass "
            "its path: --weights FILE"
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Generator[None]:
    """Hold the lock of a file in the cache, so that only one process of a node downloads it."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_timm(arch: str, input_size: tuple[int, int]) -> Tensors:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log each attempt
    try:
        return dict(build_pretrained_timm(arch, input_size).state_dict())
    except Exception as error:
        if not _is_expected(error):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise UserError(
            f"weights: timm can't load the weights of {arch.removeprefix(TIMM)} ({reason}); download them elsewhere "
            "from huggingface.co/timm and pass the path of model.safetensors: --weights FILE"
        ) from error


def _is_expected(error: Exception) -> bool:
    """Return whether timm or the hub says that there are no such weights, or that they can't be reached."""
    return isinstance(error, (OSError, RuntimeError, ValueError)) or type(error).__module__.startswith(("http", "hugg"))
