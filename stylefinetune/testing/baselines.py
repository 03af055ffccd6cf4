"""Compares a network with simple classifiers of its features, which are fitted to pictures of another split."""

import dataclasses

import numpy as np
import torch

from stylefinetune.data.dataset import PictureDataset, open_split
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.evaluation.baselines.baselines import FITS, Baselines, rank_by_baselines, score_ranks
from stylefinetune.evaluation.baselines.knn import NEIGHBOURS
from stylefinetune.testing.features import collect_features
from stylefinetune.testing.split_pass import progress_bar
from stylefinetune.testing.test_set import TestSet

TRAINING_PICTURES = 20_000  # by default


@dataclasses.dataclass(frozen=True)
class BaselineTest:
    """The pictures to which classifiers are fitted, and those that they classify; none is mirrored or averaged."""

    test: TestSet
    training: PictureDataset
    tested: PictureDataset
    available: int  # pictures of the split of `training`

    @classmethod
    def open(cls, test: TestSet, split: str, limit: int = TRAINING_PICTURES) -> "BaselineTest":
        """Open the pictures of a split, or `limit` of them; 0 is no limit.

        The pictures that are drawn depend on the seed of the run and on the number of pictures in the split alone.

        Raises:
            UserError: the split is that of the test or has too few pictures, or the pictures have several labels.
        """
        check_one_label(test, "--baselines")
        if limit < 0 or limit == 1:
            raise UserError(f"--baseline_pictures is {limit}; it must be at least 2, or 0 for all pictures")
        phase, seed = test.saved.config.data.phase(training=False), test.saved.progress.seed
        if split == test.pictures.phase.split:
            raise UserError(f"--baselines is {split}, the split of the test; choose another one to fit them to")
        entries = open_split(test.index, split, "--baselines")
        available = len(entries)
        if 0 < limit < available:
            # NumPy guarantees RandomState's stream.
            drawn = np.random.RandomState(np.random.MT19937(seed)).permutation(available)[:limit]
            is_drawn = np.zeros(available, np.bool_)
            is_drawn[drawn] = True
            entries = entries.select(is_drawn)
        training = PictureDataset(entries, dataclasses.replace(phase, split=split), seed)
        tested = PictureDataset(
            test.pictures.entries, dataclasses.replace(phase, split=test.pictures.phase.split), seed
        )
        return cls(test, training, tested, available)

    def run(self, world: World, *, workers: int | None = None) -> Baselines:
        """Return the quality of the classifiers, the same on each rank; collective.

        All ranks compute features, but rank 0 alone fits the classifiers: sums over ranks would be rounded differently
        on another number of ranks. The others wait, for at most the time limit of a collective.

        Args:
            world: all ranks.
            workers: decoding processes of each rank; by default those of the run.

        Raises:
            UserError: a shard can't be read, or fewer than two training pictures can be decoded.
        """
        saved, index = self.test.saved, self.test.index
        train = collect_features(saved, index, self.training, world, workers, "features")
        test = collect_features(saved, index, self.tested, world, workers, "features of the test")
        split = self.training.phase.split
        if len(train.labels) < 2:
            raise UserError(f"--baselines {split}: it has fewer than two pictures; choose another split")
        found = torch.zeros(2, len(test.labels), dtype=torch.int64)
        penalty = torch.zeros(1, dtype=torch.float64)

        def fit() -> None:
            with progress_bar("baselines", FITS, world) as advance:
                classes, seed = len(saved.progress.classes), saved.progress.seed
                ranks = rank_by_baselines(train, test, classes, seed, world.device, lambda: advance(1))
            found.copy_(torch.stack((ranks.knn, ranks.linear_probe)))
            penalty.fill_(ranks.penalty)

        world.main_first(fit)
        knn, linear_probe = world.sum(found).cpu()  # the other ranks add zeros
        return Baselines(
            split=split,
            pictures=len(train.labels),
            available=self.available,
            layer=train.layer,
            dimensions=train.values.shape[1],
            count=len(test.labels),
            neighbours=min(NEIGHBOURS, len(train.labels)),
            penalty=world.sum(penalty).item(),
            knn=score_ranks(knn),
            linear_probe=score_ranks(linear_probe),
        )


def check_one_label(test: TestSet, flag: str) -> None:
    """Check that the pictures have one label each.

    Raises:
        UserError: they have several.
    """
    if test.pictures.entries.labels is not None:
        raise UserError(f"{flag} needs pictures with one label, and those of {test.index.root} have several; remove it")
