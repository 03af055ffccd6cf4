"""Settles how pictures become the network's input: as its weights expect, unless the config says otherwise."""

import dataclasses
from pathlib import Path
from typing import Any

from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import CONFIG, Checkpoint
from stylefinetune.checkpoint.folders import find_checkpoint_folder
from stylefinetune.config.cli import load_config
from stylefinetune.config.data import DataConfig, PhaseConfig
from stylefinetune.config.preprocessing import CAFFE, Preprocessing
from stylefinetune.config.schema import CAFFENET, Config
from stylefinetune.errors import UserError
from stylefinetune.models.published_preprocessing import published_preprocessing


def resolve_preprocessing(config: Config, resumed: Checkpoint | None) -> Config:
    """Decide the keys of the preprocessing that are not set.

    A resumed run keeps its own. A new run follows its weights: the checkpoint or the published weights from which it
    starts. CaffeNet, and a run with a Caffe solver, have Caffe's.

    Raises:
        UserError: there is no such network, or the settings contradict each other.
    """
    wanted = resumed.config.data if resumed else _of_weights(config)
    if isinstance(wanted, Preprocessing):
        wanted = _for_sizes(wanted, config.data)
    try:
        return dataclasses.replace(config, data=_fill(config.data, wanted))
    except ValueError as error:
        raise UserError(str(error)) from error


def _of_weights(config: Config) -> Preprocessing | DataConfig:
    if config.model.arch == CAFFENET or config.solver:
        return CAFFE
    *_, weights = config.weights.split(",") if config.weights else [None]
    folder = find_checkpoint_folder(Path(weights)) if weights else None
    if folder and (folder / CONFIG).is_file():
        return load_config(folder / CONFIG).data
    return published_preprocessing(config.model.arch, weights)


def _for_sizes(published: Preprocessing, data: DataConfig) -> Preprocessing:
    """Return published preprocessing for the sizes that are set: the crop has the same part of the picture."""
    if published == CAFFE:
        return published
    if isinstance(data.image_size, int) and data.image_size > 0:
        return dataclasses.replace(published, crop_size=min(published.crop_size, data.image_size))
    crops = [size for size in (data.crop_size, data.test.crop_size) if size]
    if not crops:
        return published
    side = round(crops[-1] * published.image_size / published.crop_size)  # the test's, of which the ratio is published
    return dataclasses.replace(published, image_size=max(side, *crops), crop_size=crops[0])


def _fill(data: DataConfig, wanted: Preprocessing | DataConfig) -> DataConfig:
    names = ("resize", "interpolation", "channels", "image_size", "crop_size")
    filled: dict[str, Any] = {name: getattr(wanted, name) for name in names if getattr(data, name) is None}
    if data.resize == "warp" and wanted.resize != "warp":
        filled.pop("interpolation", None)  # Caffe's
    if not data.mean_value and not data.mean_file:
        filled["mean_value"] = wanted.mean_value
    if not data.std_value and (data.scale == 1 or isinstance(wanted, DataConfig)):
        filled["std_value"] = wanted.std_value
    if data.augment.random_resized_crop is None:
        keeps_shape = filled.get("resize", data.resize) == "shorter_side"
        cut = wanted.augment.random_resized_crop if isinstance(wanted, DataConfig) else keeps_shape
        filled["augment"] = dataclasses.replace(data.augment, random_resized_crop=cut)
    return dataclasses.replace(data, **filled)


def describe_input(config: Config, phase: PhaseConfig) -> str:
    """Return in words how a picture becomes the network's input."""
    augment = phase.augment
    if augment.random_resized_crop:
        low, high = augment.scale
        resized = f"a random part of {low:g} to {high:g} of the area resized ({phase.interpolation})"
    elif phase.resize == "shorter_side":
        assert phase.image_size is not None
        resized = f"shorter side resized to {phase.image_size[0]} ({phase.interpolation})"
    else:
        resized = "resized to {}x{}".format(*phase.image_size) if phase.image_size else "not resized"
    verb = "" if augment.random_resized_crop else ", cropped"
    cropped = f"{verb} to {phase.crop_size}x{phase.crop_size}" if phase.crop_size else ""
    changes = {
        augment.policy: augment.policy != "none",
        "colours changed": augment.color_jitter,
        "erased in part": augment.random_erasing,
        "mirrored at random": phase.mirror,
    }
    mirrored = "".join(f", {change}" for change, used in changes.items() if used)
    values = _join(phase.mean_value)
    minus = f"the values {values}" if values else phase.mean_file or f"{config.data.shards}/mean.npy"
    divided = f", divided by {_join(phase.std_value)}" if phase.std_value else ""
    channels = f" ({phase.order})" if phase.channels != CAFFE.channels else ""
    return f"{resized}{cropped}{mirrored}; minus {minus}{divided}{channels}"


def _join(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def lost_aspect_ratio(index: ShardIndex, phase: PhaseConfig) -> str | None:
    """Return a warning if pictures are to keep an aspect ratio that they lost when they were packed."""
    side = index.metadata.image_size
    if phase.resize == "warp" or not side:
        return None
    return (
        f"the pictures of {index.root} are stored as {side}x{side} pixels, whatever their shape was, and the weights "
        "expect pictures with their aspect ratio: assemble with --encode_format original, or set data.resize=warp"
    )
