"""Warns of what makes a run learn little or less than it could."""

from collections.abc import Iterator

import numpy as np

from shards.format import counted
from stylefinetune.config.deepspeed import DeepSpeedConfig
from stylefinetune.config.schema import CAFFENET, Config
from stylefinetune.data.dataset import PictureDataset

_FIRST = 1000  # pictures of an epoch that must not all have one class


def warn_of_settings(config: Config, pictures: int) -> Iterator[str]:
    """Yield a line for each setting with which a run on so many training pictures can't do what it is meant for.

    They are not refused, since checkpoints of earlier versions have them, and Caffe's solvers may.
    """
    optim, max_iter, per_iteration = config.optim, config.train.max_iter, config.pictures_per_iteration
    if optim.base_lr == 0:
        yield "optim.base_lr is 0, so the weights do not change"
    if any(
        min(rule.lr_mult, rule.bias_lr_mult or 0, rule.decay_mult, rule.bias_decay_mult) < 0 for rule in optim.layers
    ):
        yield "optim.layers has a negative multiplier, which makes a loss or weights larger instead of smaller"
    if optim.warmup_iter >= max_iter:
        yield (
            f"optim.warmup_iter is {optim.warmup_iter:,} and the run has {counted(max_iter, 'iteration')}, so the "
            "learning rate rises until the end; the unit is iterations, not epochs"
        )
    if per_iteration > pictures:
        yield (
            f"an iteration reads {per_iteration:,} pictures, more than the {pictures:,} of an epoch, so some are in it "
            "more than once; lower data.batch_size or train.iter_size"
        )
    phase = config.data.phase(training=True)
    if 0 < max(phase.mean_value, default=0) < 1:
        found = f"data.mean_value is {list(phase.mean_value)}"
        yield f"{found}; it is for values from 0 to 255, so multiply those for 0 to 1 by 255"
    if phase.scale == 0:
        yield "data.scale is 0, so all inputs are 0"
    if config.model.arch == CAFFENET and config.model.drop_path:
        yield f"model.drop_path has no effect on {CAFFENET}, which has no residual blocks"
    if config.engine == "torch" and config.deepspeed != DeepSpeedConfig():
        yield "the settings of deepspeed have no effect without --engine deepspeed"


def order_warning(train_set: PictureDataset, classes: tuple[str, ...]) -> str | None:
    """Return a warning if most batches have a single class: all pictures have it, or are read sorted by class."""
    labels = train_set.entries.label
    if len(np.unique(labels)) < 2:
        if not len(labels) or train_set.entries.labels is not None:  # `label` is only the first of several
            return None
        return f"all training pictures have one class, {classes[int(labels[0])]}; a network learns nothing from them"
    first = [train_set.order.row(position) for position in range(min(_FIRST, len(labels)))]
    read = labels[first]
    if len(np.unique(read)) == 1:
        found = f"the first {counted(len(first), 'picture')} of an epoch have one class, {classes[int(read[0])]}"
    elif not train_set.phase.shuffle and np.all(np.diff(labels) >= 0):
        found = "the list is sorted by class"
    else:
        return None
    window = ", or a larger data.shuffle_window" if train_set.phase.shuffle_window else ""
    return f"{found}; the network learns little from such batches: set --data.shuffle true{window}"
