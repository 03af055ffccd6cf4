import shutil

import pytest
import torch

from stylefinetune.caffe.solver import read_solver
from stylefinetune.config.cli import parse_config
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.training.solver_run import pack_solver_pictures

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
WEIGHTS = "--weights=finetune/micro_ft_iter_0.caffemodel"


def pack(*flags):
    config = parse_config(["--solver=solver_finetune.prototxt", *flags], read_solver)
    return pack_solver_pictures(config, ALONE)


def shards_in(work):
    return list(work.glob("finetune/micro_ft/shards/*/index.parquet"))


def test_the_config_names_the_packed_shards(work):
    config = pack(WEIGHTS)
    assert [str(path.parent.relative_to(work)) for path in shards_in(work)] == [config.data.shards]


def test_what_is_packed_already_is_not_checked_again(work):
    shards = pack().data.shards
    shutil.rmtree(work / "images")
    assert pack().data.shards == shards


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optim.layers={match: nope}"], "optim.layers: 'nope' matches no layer"),
        (["--weights=gone.caffemodel"], r"gone\.caffemodel can't be read"),
        (
            [WEIGHTS, "--model.widths=[8,16,24,24,16,32,64]"],
            r"fc7\.weight is 32x32 in the file and 64x32 in the network",
        ),
        (["--data.mean_file=gone.npy"], r"gone\.npy: no such mean picture"),
        (["--data.image_size=64", "--data.test.image_size=64", "--data.test.crop_size=60"], r"the pictures .* 64x64x3"),
        (["--resume=gone.solverstate"], r"gone\.solverstate"),
        (["--resume=nowhere"], "nowhere is neither a checkpoint nor a run's folder"),
        (["--train.compile=true", "--engine=deepspeed"], r"train\.compile"),
    ],
)
def test_a_mistake_is_found_before_anything_is_packed(work, flags, message):
    with pytest.raises(UserError, match=message):
        pack(*flags)
    assert shards_in(work) == []


def test_missing_pictures_are_found_before_anything_is_packed(work):
    missing = work / (work / "train.txt").read_text().split()[0]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        pack()
    assert shards_in(work) == []
