"""Tests a network on a split of shards, on any number of ranks."""

import dataclasses

import torch

from shards.format import shorten
from shards.format.index import ShardIndex
from shards.format.order import RankBatchSampler
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.data.dataset import Batch, PictureDataset, open_index, open_split
from stylefinetune.data.mean import describe_other_size
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.evaluation.metrics import Evaluation, evaluate_predictions
from stylefinetune.evaluation.predictions import Predictions, collect_predictions
from stylefinetune.evaluation.several_labels import LabelEvaluation, evaluate_labels
from stylefinetune.evaluation.views import average_views
from stylefinetune.losses.several_labels import check_loss
from stylefinetune.models.build import run_network
from stylefinetune.testing.split_pass import read_once


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of each picture whose predictions are averaged.

    Raises:
        UserError: the number of crops is neither 1 nor 10.
    """

    crops: int = 1
    flip: bool = False  # also the mirror image of each crop

    def __post_init__(self) -> None:
        if self.crops not in (1, 10):
            raise UserError(f"--crops is {self.crops}; it must be 1 or 10")


@dataclasses.dataclass(frozen=True)
class TestSet:
    """The pictures that a network is tested on."""

    __test__ = False  # not a class of tests

    saved: Checkpoint
    index: ShardIndex
    pictures: PictureDataset
    views: Views

    @classmethod
    def open(
        cls,
        saved: Checkpoint,
        shards: str | None = None,
        split: str | None = None,
        views: Views | None = None,
        *,
        takes_names: bool = False,
    ) -> "TestSet":
        """Open the test split of a checkpoint's run, or of other shards.

        With `takes_names`, the checkpoint's classes have no names of their own, and get those of the shards.

        Raises:
            UserError: the shards can't be read, or don't fit the checkpoint.
        """
        views = views or Views()
        index = _open_index(saved, shards)
        saved = _with_class_names(saved, index, takes_names=takes_names)
        return cls(saved, index, _open_pictures(saved, index, split, views), views)

    @property
    def is_training_split(self) -> bool:
        """Whether the run was trained on these pictures."""
        saved, index = self.saved, self.index
        is_same = index.fingerprint_like(saved.progress.index) == saved.progress.index
        return is_same and self.pictures.phase.split == saved.config.data.phase(training=True).split

    def predict(self, world: World, *, workers: int | None = None) -> Predictions:
        """Return the predictions for all pictures, after copying the shards from an object store; collective.

        Args:
            world: all ranks.
            workers: decoding processes of each rank; by default those of the run.

        Raises:
            UserError: a shard can't be read, no picture can be decoded, or a logit isn't finite.
        """
        saved, pictures, views = self.saved, self.pictures, self.views
        net, transform = saved.build_network(world.device)
        loss = saved.config.train.loss

        @torch.no_grad()
        def classify(batch: Batch) -> torch.Tensor:
            return run_network(net, transform(batch.pictures, batch.crops))

        def forward(batch: Batch) -> torch.Tensor:
            if views.crops == 1 and not views.flip:
                return classify(batch)
            height, width = saved.progress.input_size
            crops = dataclasses.replace(batch.crops, size=(height, width))
            whole = dataclasses.replace(batch, crops=crops)
            return average_views(classify, whole, crops=views.crops, mirror=views.flip, loss=loss)

        sampler = RankBatchSampler(0, len(pictures.entries), pictures.phase.batch_size, world.rank, world.size)
        with read_once(saved, self.index, pictures, sampler, world, workers) as batches:
            predictions = collect_predictions(forward, batches, pictures, saved.progress.classes, world, loss)
        if not len(predictions):
            raise UserError(f"no picture of {pictures.entries.root}, split {pictures.phase.split}, can be decoded")
        return predictions


def evaluate_all(predictions: Predictions) -> Evaluation | LabelEvaluation:
    """Return the metrics of predictions, of pictures with one label or with several."""
    return evaluate_predictions(predictions) if predictions.several is None else evaluate_labels(predictions)


def _open_index(saved: Checkpoint, shards: str | None) -> ShardIndex:
    data = saved.config.data
    if shards:
        data = dataclasses.replace(data, shards=shards)
    if not data.shards:
        raise UserError(f"{saved.path} doesn't say on which pictures to test it; name a shard directory with --data")
    return open_index(data)


def _with_class_names(saved: Checkpoint, index: ShardIndex, *, takes_names: bool) -> Checkpoint:
    """Return the checkpoint after checking its classes."""
    names, own = list(index.metadata.classes), saved.progress.classes
    if takes_names and len(names) == len(own):
        return dataclasses.replace(saved, progress=dataclasses.replace(saved.progress, classes=names))
    if names != own:
        raise UserError(
            f"the classes of {index.root} differ from those of {saved.path} ({_describe_difference(names, own)}); "
            "name other --data"
        )
    return saved


def _describe_difference(names: list[str], expected: list[str]) -> str:
    """Return how class names differ from the expected ones: which are missing, which are new, or their order."""
    missing = [name for name in expected if name not in names]
    new = [name for name in names if name not in expected]
    parts = [f"{word} {shorten(found)}" for word, found in (("without", missing), ("with", new)) if found]
    return " and ".join(parts) or "in another order"


def _open_pictures(saved: Checkpoint, index: ShardIndex, split: str | None, views: Views) -> PictureDataset:
    phase = saved.config.data.phase(training=False)
    if split:
        phase = dataclasses.replace(phase, split=split)
    if views.crops > 1 and phase.resize == "shorter_side" and phase.image_size:
        phase = dataclasses.replace(phase, crop_size=phase.image_size[0])  # the views are cut from the whole square
    check_loss(saved.config.train.loss, index)
    pictures = PictureDataset(open_split(index, phase.split, "--split"), phase, seed=saved.progress.seed)
    if difference := describe_other_size(saved.means[1], pictures.size):
        raise UserError(f"{saved.path} can't be tested on {index.root}: {difference}")
    return pictures
