"""Checks the settings of a run on pictures with several labels."""

from shards.format.index import ShardIndex
from stylefinetune.config.schema import Config
from stylefinetune.config.train import LossFunction
from stylefinetune.errors import UserError


def check_loss(function: LossFunction, index: ShardIndex) -> None:
    """Check that a network with this loss can learn or predict the labels of the shards.

    Raises:
        UserError: the pictures have several labels, and the loss is the softmax's.
    """
    if index.pictures.labels is not None and function == "softmax":
        raise UserError(
            f"the pictures of {index.root} have several labels, but train.loss softmax is for one; "
            "train with train.loss: bce"
        )


def check_several_labels(config: Config, index: ShardIndex) -> None:
    """Check the settings of a run; class weights are for the softmax only, see TrainConfig.

    Raises:
        UserError: the pictures have several labels, and a setting is for pictures with one.
    """
    check_loss(config.train.loss, index)
    settings = {"data.balanced": config.data.balanced, "train.cuda_graph": config.train.cuda_graph}
    for name, is_set in settings.items():
        if is_set and index.pictures.labels is not None:
            raise UserError(f"{name} is for pictures with one label, but those of {index.root} have several; remove it")
