"""Chooses the settings of a run from the network and the number of pictures."""

import dataclasses
import math
import re

from stylefinetune.config.schema import CAFFENET

_TRANSFORMERS = re.compile(r"vit|swin|convnext|deit|beit|eva|cait|xcit|former|coat")  # and others trained with AdamW
_SIZES = (64, 32, 16, 8)  # of a batch
_UPDATES = 20  # of a pass, at least
_IMBALANCE = 10  # times as many pictures


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a run that depend on the pictures and the network, and why."""

    batch_size: int
    batch_reason: str
    test_interval: int
    test_reason: str
    warmup_iter: int
    optim: tuple[tuple[str, object, str], ...]  # key, value, comment


def choose_recipe(
    arch: str, weights: str | None, epochs: float, pictures: int | None, batch_size: int | None
) -> Recipe:
    """Choose the settings; `pictures` is the number of training pictures, None if unknown."""
    size, reason = _choose_batch(pictures, batch_size)
    if pictures is None:
        interval, why, warmup = 200, "iterations; set it to about one pass over the pictures", 100
    else:
        a_pass = math.ceil(pictures / size)
        interval = max(a_pass, 10)
        why = f"iterations; a pass over the training pictures takes {a_pass}"
        warmup = max(1, round(a_pass * epochs / 20))
    return Recipe(size, reason, interval, why, warmup, _choose_optimizer(arch, weights))


def imbalance(counts: dict[str, int]) -> str | None:
    """Return a sentence if some class has many times the pictures of another one."""
    if not counts:
        return None
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] < _IMBALANCE * max(counts[fewest], 1):
        return None
    return f"{most} has {counts[most]:,} training pictures and {fewest} {counts[fewest]:,}"


def _choose_batch(pictures: int | None, given: int | None) -> tuple[int, str]:
    together = "pictures of all processes together"
    if given is not None:
        return given, together
    if pictures is None:
        return 32, together
    size = next((size for size in _SIZES if pictures >= size * _UPDATES), _SIZES[-1])
    return (
        size,
        f"{together}; about {pictures:,} training pictures then give {math.ceil(pictures / size):,} updates a pass",
    )


def _choose_optimizer(arch: str, weights: str | None) -> tuple[tuple[str, object, str], ...]:
    if _TRANSFORMERS.search(arch):
        return (
            ("optimizer", "adamw", "with which such networks were trained"),
            ("base_lr", 0.0001, "a usual rate; stylefinetune find_lr suggests one for your pictures"),
            ("weight_decay", 0.05, ""),
            ("decay_norms", False, ""),
        )
    rate = 0.001 if weights else 0.01
    start = "pretrained" if weights else "random"
    comment = f"a usual rate for {start} weights; stylefinetune find_lr suggests one for your pictures"
    decay = 0.0005 if arch == CAFFENET else 0.0001
    return (
        ("base_lr", rate, comment),
        ("momentum", 0.9, "the new classifier learns ten times as fast as the other layers, as optim.layers says"),
        ("weight_decay", decay, ""),
    )
