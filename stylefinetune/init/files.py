"""Writes shards.yaml and finetune.yaml as text with comments."""

import re
import shlex
from pathlib import PurePath

from stylefinetune.config.schema import CAFFENET
from stylefinetune.init.recipe import choose_recipe, imbalance
from stylefinetune.init.source import TEST_SHARE, Source
from stylefinetune.init.yaml_text import line

SHARDS_FILE, FINETUNE_FILE = "shards.yaml", "finetune.yaml"
_COMMENTS = {
    "list": "the pictures",
    "out": "the shards: tar files and an index",
    "url_col": "the column of the pictures",
    "label_col": "the column of the labels",
    "local": "the pictures are local files",
}


def shards_text(source: Source, folder: str = "") -> str:
    """Return the config of `shards assemble`; `folder` is where it is written, empty or with a slash at its end."""
    assert source.assembly is not None
    lines = [
        f"# Packs {source.summary}.",
        "#",
        f"# Command:      shards assemble --config {shlex.quote(folder + SHARDS_FILE)}",
        "# All settings: shards assemble --help",
    ]
    for key, value in source.assembly.items():
        lines += line(key, value, _COMMENTS[key])
    lines += line("test_share", TEST_SHARE, "part of the pictures to test on, unless they already have splits")
    lines += line(
        "encode_format", "original", "stores the files as they are; pixels stores 256x256 pixels, for CaffeNet"
    )
    return "\n".join(lines) + "\n"


def finetune_text(
    source: Source, arch: str, weights: str | None, epochs: float, batch_size: int | None, folder: str = ""
) -> str:
    """Return the config of `stylefinetune train`; `folder` as in shards_text."""
    recipe = choose_recipe(arch, weights, epochs, source.train_pictures, batch_size)
    run_dir = f"runs/{source.name}"
    sections = [
        _head(source, arch, weights, run_dir, folder),
        line("run_dir", run_dir, "log, metrics and checkpoints"),
        line("weights", weights, _about_weights(weights)),
        [
            "data:",
            *line("shards", source.shards, "", 2),
            *line("batch_size", recipe.batch_size, recipe.batch_reason, 2),
        ],
        ["model:", *line("arch", arch, "stylefinetune check shows its layers", 2), *_last_layer(source, arch)],
        [
            "optim:",
            *(text for key, value, comment in recipe.optim for text in line(key, value, comment, 2)),
            *line("lr_policy", "cosine", "the rate falls to 0 at the end of the run", 2),
            *line("warmup_iter", recipe.warmup_iter, "the rate rises in these iterations first", 2),
        ],
        [
            "train:",
            *line("epochs", epochs, "passes over the training pictures", 2),
            *line("test_interval", recipe.test_interval, recipe.test_reason, 2),
            *(line("loss", "bce", "a picture may have several labels", 2) if source.several_labels else []),
            "  # precision: bf16 # on a GPU: faster, and takes less memory",
        ],
        [
            "checkpoint:",
            *line("snapshot", recipe.test_interval, "iterations; after each test, so that the best one can be kept", 2),
            *line("keep_last", 1, f"and the best one, {run_dir}/best", 2),
        ],
        ["tracking:", *line("wandb", "auto", "Weights & Biases: online with an API key, else offline; or disabled", 2)],
    ]
    data = sections[3]
    if uneven := imbalance(source.train_counts):
        data.append(f"  # balanced: true # draws all classes equally often: {uneven}")
    if source.test_split != "test":
        comment = "" if source.test_split else "there are no pictures to test on"
        data += ["  test:", *line("split", source.test_split, comment, 4)]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def commands(source: Source, arch: str, weights: str | None, folder: str) -> list[str]:
    """Return the commands that use the files, in their order; `folder` is empty or ends with a slash."""
    wanted = [] if source.assembly is None else [f"shards assemble --config {shlex.quote(folder + SHARDS_FILE)}"]
    if arch == CAFFENET:
        wanted.append(f"shards mean {shlex.quote(source.shards)}")
        wanted += [f"stylefinetune weights {weights}"] if weights and not _is_file(weights) else []
    config = f"--config {shlex.quote(folder + FINETUNE_FILE)}"
    return [*wanted, f"stylefinetune check {config}", f"stylefinetune train {config}"]


def _head(source: Source, arch: str, weights: str | None, run_dir: str, folder: str) -> list[str]:
    steps = [*commands(source, arch, weights, folder), f"stylefinetune evaluate {run_dir}"]
    lines = [f"# Fine-tunes {arch} on {source.summary}.", "#"]
    lines += [f"# {'Commands:' if number == 0 else '':9} {step}" for number, step in enumerate(steps)]
    several = f"torchrun --nproc_per_node N -m stylefinetune.train --config {shlex.quote(folder + FINETUNE_FILE)}"
    return [*lines, f"# On N GPUs: {several}", "# All settings: stylefinetune train --help all"]


def _about_weights(weights: str | None) -> str:
    if weights is None:
        return "random weights; DEFAULT downloads published ones, with which fewer pictures are enough"
    what = "the weights of this file" if _is_file(weights) else "published weights, downloaded once"
    return f"{what}; null begins with random weights"


def _is_file(weights: str) -> bool:
    """Return whether weights are named by a file or folder, and not by the name of published ones."""
    return bool(PurePath(weights).suffix) or "/" in weights


def _last_layer(source: Source, arch: str) -> list[str]:
    if arch != CAFFENET:
        return []
    name = "fc8_" + re.sub(r"[^A-Za-z0-9]+", "_", source.name)
    return line("last_layer", name, "no layer of the weights has this name, so it starts from random weights", 2)
