"""Fine-tunes and evaluates networks on tar shards of pictures.

The functions here do from Python what the commands of the same names do. They load what they need when they are called,
so that importing the package is fast.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from stylefinetune.api.classifying import Classifier, Prediction
    from stylefinetune.api.evaluating import Result
    from stylefinetune.api.fine_tuning import Run

__all__ = ["evaluate", "fine_tune", "load", "predict"]


def fine_tune(
    run_dir: str | Path,
    shards: str | Path | None = None,
    *,
    config: str | Path | None = None,
    **settings: Any,  # noqa: ANN401 -- of any section
) -> "Run":
    """Train a network; a run that was stopped is continued. In a program under torchrun, on all of its ranks.

    Args:
        run_dir: folder of the run's log, metrics and checkpoints.
        shards: the shard directory, data.shards.
        config: YAML file of settings.
        settings: the settings of `stylefinetune train --help all`, which override those of the file; sections are
            mappings: weights="DEFAULT", model={"arch": "resnet50"}, train={"epochs": 5}.

    Raises:
        UserError: a setting, the data or a checkpoint is not as required, or the loss isn't finite.
        Stopped: a signal, such as Ctrl-C, has stopped it; a checkpoint is saved.
    """
    from stylefinetune.api.fine_tuning import fine_tune as run  # noqa: PLC0415 -- see the module's docstring

    return run(run_dir, shards, config, settings)


def evaluate(
    checkpoint: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
    *,
    crops: int = 1,
    flip: bool = False,
    ema: bool = True,
    baselines: str | None = None,
    baseline_pictures: int = 20_000,
) -> "Result":
    """Test a checkpoint; in a program under torchrun, on all of its ranks.

    Args:
        checkpoint: RUN, RUN:best, RUN:ITERATION or a folder.
        data: shard directory; by default the run's.
        split: by default the test split of the run.
        crops: crops of each picture to average: 1, or 10 as in Caffe.
        flip: average each crop with its mirror image.
        ema: use the average of the weights if the run has one.
        baselines: split to fit simple classifiers of the network's features to, such as "train", for Result.baselines.
        baseline_pictures: pictures of this split to draw; 0 takes all.

    Raises:
        UserError: the checkpoint or the data can't be read, or don't fit together.
    """
    from stylefinetune.api.evaluating import evaluate as run  # noqa: PLC0415

    return run(
        checkpoint,
        data,
        split,
        crops=crops,
        flip=flip,
        ema=ema,
        baselines=baselines,
        baseline_pictures=baseline_pictures,
    )


def predict(
    checkpoint: str | Path,
    inputs: str | Path | Iterable[str | Path],
    *,
    top: int = 5,
    crops: int = 1,
    flip: bool = False,
    ema: bool = True,
    batch_size: int | None = None,
) -> "Iterator[Prediction]":
    """Classify any number of pictures, and yield the predictions while they are made.

    Args:
        checkpoint: RUN, RUN:best, RUN:ITERATION or a folder.
        inputs: pictures, folders, patterns, http(s) URLs, lists, shard directories: what `stylefinetune predict` takes.
        top: number of classes of each picture.
        crops: crops of each picture to average: 1, or 10 as in Caffe.
        flip: average each crop with its mirror image.
        ema: use the average of the weights if the run has one.
        batch_size: pictures at a time; by default that of the run's tests.

    Raises:
        UserError: the checkpoint or a list can't be read. A picture that can't be read has a Prediction with its error.
    """
    from stylefinetune.api.classifying import predict as run  # noqa: PLC0415

    return run(checkpoint, inputs, top=top, crops=crops, flip=flip, ema=ema, batch_size=batch_size)


def load(checkpoint: str | Path, *, ema: bool = True, device: "str | torch.device" = "cpu") -> "Classifier":
    """Load a trained network, with its preprocessing and class names.

    `load("runs/mine:best")("photo.jpg", top=3)` are the three most probable classes of a picture.

    Args:
        checkpoint: RUN, RUN:best, RUN:ITERATION or a folder.
        ema: use the average of the weights if the run has one.
        device: where the network is.

    Raises:
        UserError: the checkpoint can't be read.
    """
    from stylefinetune.api.classifying import load as run  # noqa: PLC0415

    return run(checkpoint, ema=ema, device=device)


class _Package(ModuleType):
    """This package, in which `evaluate` and `predict` stay the functions when the commands of these names are imported.

    An import of stylefinetune.evaluate would otherwise set the attribute to the module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
