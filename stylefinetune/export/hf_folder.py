"""Writes a network as a folder for the Hugging Face hub, and loads it again.

If timm has the network, `timm.create_model("local-dir:FOLDER", pretrained=True)` loads the folder. Otherwise its
config.json is the description, and its model.safetensors the file of `--to safetensors`.
"""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylefinetune.config.schema import CAFFENET
from stylefinetune.errors import UserError
from stylefinetune.export import safetensors_file
from stylefinetune.export.network import TrainedNetwork
from stylefinetune.export.pictures import Pictures
from stylefinetune.models.architectures import TIMM

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def check_folder(folder: Path) -> None:
    """Check that a folder can be written, before the work.

    Raises:
        UserError: timm is missing, or the folder has files of others.
    """
    if importlib.util.find_spec("timm") is None:
        raise UserError("--to hf needs timm; run: pip install 'stylefinetune[export]'")
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {CONFIG, WEIGHTS, CARD}):
        raise UserError(f"--out {folder} exists and isn't an earlier export; name another folder")


def write_folder(folder: Path, network: TrainedNetwork, pictures: Pictures) -> None:
    """Write config.json and model.safetensors."""
    folder.mkdir()
    net = _timm_network(network)
    if net is None:
        safetensors_file.write_safetensors(folder / WEIGHTS, network, pictures)
        text = json.dumps(network.describe(normalizes=False), ensure_ascii=False, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        return
    from timm.models import save_for_hf  # noqa: PLC0415 -- takes seconds

    net.load_state_dict(network.net.state_dict())
    net.pretrained_cfg.update(_preprocessing(network))
    save_for_hf(net, str(folder), model_config={"label_names": network.saved.progress.classes}, safe_serialization=True)


@torch.no_grad()
def read_logits(folder: Path, network: TrainedNetwork, pictures: Pictures) -> torch.Tensor:
    """Return the logits that the folder gives, [B, classes]; timm's network normalizes as its config.json says."""
    if not is_for_timm(folder):
        return safetensors_file.read_logits(folder / WEIGHTS, network, pictures)
    import timm  # noqa: PLC0415 -- takes seconds

    net = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True).eval()
    config: Any = net.pretrained_cfg
    mean, std = (torch.tensor(config[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    return net((pictures.cropped / 255 - mean) / std)


def is_for_timm(folder: Path) -> bool:
    """Return whether timm loads the folder."""
    return "pretrained_cfg" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def _timm_network(network: TrainedNetwork) -> Any:  # noqa: ANN401 -- timm's networks have no common type
    """Return timm's network with the same tensors; None if it has none, or can't describe the preprocessing."""
    import timm  # noqa: PLC0415 -- takes seconds

    name, phase = network.arch.removeprefix(TIMM), network.saved.config.data.phase(training=False)
    is_describable = phase.resize == "shorter_side" and phase.channels == "rgb" and network.mean.shape[1:] == (1, 1)
    if network.arch == CAFFENET or not is_describable or not timm.is_model(name):
        return None
    published = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {"img_size": network.input_size} if published and published.fixed_input_size else {}
    net: Any = timm.create_model(name, num_classes=len(network.saved.progress.classes), **size)
    return net if _shapes(net) == _shapes(network.net) else None


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def _preprocessing(network: TrainedNetwork) -> dict[str, Any]:
    """Return the preprocessing in the words of timm, for values from 0 to 1."""
    phase = network.saved.config.data.phase(training=False)
    assert phase.image_size is not None
    return {
        "input_size": (3, *network.input_size),
        "interpolation": phase.interpolation,
        "crop_mode": "center",
        "crop_pct": crop_fraction(network.input_size[0], phase.image_size[0]),
        "mean": tuple(value / 255 for value in network.mean.flatten().tolist()),
        "std": tuple(value / 255 for value in network.std.tolist()),
    }


def crop_fraction(crop: int, side: int) -> float:
    """Return the crop_pct from which timm computes the shorter side: floor(crop / crop_pct)."""
    exact = crop / side
    return exact if math.floor(crop / exact) == side else crop / (side + 0.5)
