import dataclasses

import numpy as np
import pytest
import torch

from shards.format.order import RankBatchSampler
from stylefinetune.config.schema import Config
from stylefinetune.config.train import TrainConfig
from stylefinetune.data.dataset import open_index
from stylefinetune.data.loader import load_batches
from stylefinetune.data.mixing.mix import to_targets
from stylefinetune.losses.batch_targets import BatchTargets, add_pairs
from tests.stylefinetune.data.loading import CPU, data_config, open_pictures

WEIGHTS = (1.0, 2.0, 4.0, 8.0)


def completed(shards, start, rank, ranks, **data):
    """Return the completed batches of one rank up to position 60."""
    config = Config(data=data_config(shards, shuffle=True, **data), train=TrainConfig(seed=7, class_weights=WEIGHTS))
    pictures = open_pictures(shards, shuffle=True)
    sampler = RankBatchSampler(start, 60, 10, rank, ranks, partners=config.data.is_mixed)
    return list(BatchTargets(config, pictures).complete(load_batches(pictures, sampler, 0, CPU), sampler))


def test_every_rank_and_every_start_has_the_same_mix_and_weight(pixel_shards):
    whole = completed(pixel_shards, 0, 0, 1, mixup=0.2, cutmix=1.0)
    assert len({batch.mix for batch in whole}) == 6
    for rank in range(3):
        parts = completed(pixel_shards, 20, rank, 3, mixup=0.2, cutmix=1.0)
        assert [(b.mix, b.weight) for b in parts] == [(b.mix, b.weight) for b in whole[2:]]


def test_the_weight_is_that_of_all_pictures_of_the_batch(pixel_shards):
    for batch in completed(pixel_shards, 0, 0, 1):
        assert batch.mix is None
        assert batch.weight == np.array(WEIGHTS)[batch.labels.numpy()].sum()


def test_a_slice_begins_with_the_partner_of_its_first_picture(pixel_shards):
    whole = completed(pixel_shards, 0, 0, 1)
    for rank in range(3):
        for number, batch in enumerate(completed(pixel_shards, 0, rank, 3, mixup=0.2)):
            places = [position - 10 * number for position in batch.positions.tolist()]
            assert places == [[9, 0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]][rank]
            same = whole[number]
            for mine, place in enumerate(places):
                assert batch.labels[mine] == same.labels[place]
                assert (batch.pictures[mine] == same.pictures[place]).all()
                assert (batch.crops.top[mine], batch.crops.left[mine]) == (
                    same.crops.top[place],
                    same.crops.left[place],
                )
                assert batch.crops.mirror[mine] == same.crops.mirror[place]


def test_without_settings_the_batches_are_passed_on(pixel_shards):
    config = Config(data=data_config(pixel_shards))
    sampler, batches = RankBatchSampler(0, 60, 10, 0, 1), iter([])
    assert BatchTargets(config, open_pictures(pixel_shards)).complete(batches, sampler) is batches


@pytest.mark.parametrize("zero", [(0.0,) * 3 + (1.0,)])
def test_a_batch_whose_classes_all_weigh_nothing_has_a_weight_to_divide_by(pixel_shards, zero):
    config = Config(data=data_config(pixel_shards), train=TrainConfig(class_weights=zero))
    pictures = open_pictures(pixel_shards)
    sampler = RankBatchSampler(0, 2, 1, 0, 1)  # labels 0 and 1
    batches = BatchTargets(config, pictures).complete(load_batches(pictures, sampler, 0, CPU), sampler)
    assert [batch.weight for batch in batches] == [1.0, 1.0]
    assert dataclasses.asdict(config)["train"]["class_weights"] == zero


def test_pictures_with_several_labels_have_a_pair_for_each(label_shards):
    """The partner of a slice's first picture, too; and on any number of ranks, shuffled, and across two epochs."""
    pictures = open_pictures(label_shards, shuffle=True)
    entries = open_index(data_config(label_shards)).entries("train")
    config = Config(data=data_config(label_shards, shuffle=True, mixup=0.2), train=TrainConfig(loss="bce", seed=7))
    for rank, ranks in ((0, 1), (0, 3), (2, 3), (11, 12)):
        sampler = RankBatchSampler(0, 60, 10, rank, ranks, partners=True)
        batches = BatchTargets(config, pictures).complete(load_batches(pictures, sampler, 0, CPU), sampler)
        for batch in batches:
            rows = [pictures.order.row(position) for position in batch.positions.tolist()]
            targets = to_targets(batch.labels, 6, batch.pairs)
            found = [torch.nonzero(each).flatten().tolist() for each in targets]
            assert found == [entries.labels[row].tolist() for row in rows]
            assert batch.mix is not None


def test_pictures_with_one_label_have_no_pairs(pixel_shards):
    batches = iter([])
    assert add_pairs(batches, open_pictures(pixel_shards)) is batches
