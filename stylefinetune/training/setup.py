"""Reads and checks all that a run starts with, before anything is written."""

import dataclasses

import torch
from torch import nn

from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import Checkpoint, Progress
from stylefinetune.checkpoint.resume import (
    check_ranks_agree,
    check_resumed_data,
    find_checkpoint,
    restore_solverstate,
)
from stylefinetune.config.schema import Config
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.mean import load_mean
from stylefinetune.data.staging import stage_folder
from stylefinetune.distributed.world import World
from stylefinetune.engines.build import check_engine
from stylefinetune.models.build import build_model


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """What a run starts with: all that a user can get wrong has been looked at, and nothing has been written.

    Attributes:
        config: its settings; the shards of a solver's lists filled in.
        index: of the shards.
        sets: pictures to train on and to test on; None never tests.
        means: what is subtracted from each, see data.load_mean.
        net: with fresh weights.
        resumed: the checkpoint that it goes on from, if any.
        progress: where it stands.
    """

    config: Config
    index: ShardIndex
    sets: tuple[PictureDataset, PictureDataset | None]
    means: tuple[torch.Tensor, torch.Tensor]
    net: nn.Module
    resumed: Checkpoint | None
    progress: Progress

    @property
    def tested(self) -> PictureDataset:
        """Pictures that a checkpoint says how to test on."""
        return self.sets[1] or self.sets[0]


def prepare_training(config: Config, world: World) -> TrainingSetup:
    """Reads what the run starts with; collective.

    Raises:
        UserError: something is missing, damaged, or doesn't go together.
    """
    check_engine(config)
    index = open_index(config.data)
    classes = index.metadata.classes
    phases = [config.data.phase(training=training) for training in (True, False)]
    folder = stage_folder(index, config.data)
    train_set, test_set = (
        PictureDataset(open_split(index, phase.split), phase, config.train.seed, folder) if phase.split else None
        for phase in phases
    )
    assert train_set is not None
    tested = test_set or train_set
    resumed = find_checkpoint(config)
    check_ranks_agree(resumed, world)
    if resumed:
        check_resumed_data(resumed, config, classes, index.fingerprint)
        means = resumed.means
    else:
        means = (
            load_mean(config.data, phases[0], train_set.size),
            load_mean(config.data, phases[1], tested.size),
        )
    input_sizes = [train_set.input_size, tested.input_size]
    net = build_model(config.model, len(classes), input_sizes, config.train.seed)
    fresh = Progress(
        iteration=0,
        losses=[],
        tests=[],
        seed=config.train.seed,
        classes=list(classes),
        index=index.fingerprint,
        picture_size=list(tested.size),
        input_size=list(tested.input_size),
    )
    resumed = resumed or restore_solverstate(config, net, fresh, means)
    return TrainingSetup(
        config, index, (train_set, test_set), means, net, resumed, resumed.progress if resumed else fresh
    )
