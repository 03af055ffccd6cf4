"""Finds the preprocessing that is published with the weights of torchvision and timm."""

from pathlib import Path
from typing import Any

from stylefinetune.config.preprocessing import Interpolation, Preprocessing
from stylefinetune.models.architectures import TIMM, check_arch
from stylefinetune.models.published_weights import DEFAULT

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def published_preprocessing(arch: str, weights: str | None) -> Preprocessing:
    """Return the preprocessing of weights of a network of torchvision or timm: that of their tests.

    Args:
        arch: the network.
        weights: name of published weights, or the path of a file, which is recognized by its name. Other files have the
            preprocessing of the default weights, and random weights (None) too, but with ImageNet's mean.

    Raises:
        UserError: there is no such network.
    """
    check_arch(arch)
    found = _of_timm(arch.removeprefix(TIMM)) if arch.startswith(TIMM) else _of_torchvision(arch, weights or DEFAULT)
    resize, crop, interpolation, mean, std = found
    if weights is None:
        mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    return Preprocessing(
        resize="shorter_side",
        interpolation=interpolation,
        channels="rgb",
        image_size=resize,
        crop_size=crop,
        mean_value=_in_levels(mean),
        std_value=_in_levels(std),
    )


_Found = tuple[int, int, Interpolation, tuple[float, ...], tuple[float, ...]]


def _of_torchvision(arch: str, weights: str) -> _Found:
    from torchvision.models import get_model_weights  # noqa: PLC0415 -- takes seconds

    published: Any = get_model_weights(arch).__members__
    by_file = {member.url.rpartition("/")[2]: member for member in published.values()}
    chosen = published.get(weights) or by_file.get(Path(weights).name) or published[DEFAULT]
    transforms = chosen.transforms()
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size
    return resize, crop, _interpolation(transforms.interpolation.value), tuple(transforms.mean), tuple(transforms.std)


def _of_timm(name: str) -> _Found:
    """Return what timm's own transforms for tests do with weights whose crop_mode is center, as that of most."""
    import timm  # noqa: PLC0415 -- takes seconds
    from timm.data.config import resolve_data_config  # noqa: PLC0415

    published = timm.get_pretrained_cfg(name)
    config = resolve_data_config(pretrained_cfg=published.to_dict() if published else {})
    crop = config["input_size"][-1]
    resize = int(crop / config["crop_pct"])
    return resize, crop, _interpolation(config["interpolation"]), tuple(config["mean"]), tuple(config["std"])


def _interpolation(name: str) -> Interpolation:
    return "bilinear" if name == "bilinear" else "bicubic"


def _in_levels(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return values on the scale 0 to 1 on the scale 0 to 255."""
    return tuple(round(255 * value, 6) for value in values)
