import contextlib
import shutil

import pytest
import torch

from stylefinetune.config.cli import parse_config
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.train import main
from stylefinetune.training.setup import prepare_training
from stylefinetune.training.solver_run import pack_solver_pictures
from tests.programs import NARROW, ROOT

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_a_new_run_starts_at_iteration_0_and_writes_nothing(pixel_shards, tmp_path):
    config = parse_config([*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}"])
    setup = prepare_training(config, ALONE)
    assert pack_solver_pictures(config, ALONE) is config
    assert (setup.resumed, setup.progress.iteration) == (None, 0)
    assert (len(setup.train_set.entries), len(setup.test_set.entries)) == (41, 11)
    assert setup.progress.classes == ["Noir", "Hazy", "Bokeh", "Bright"]
    assert (setup.progress.picture_size, setup.progress.input_size) == ([48, 48], [43, 43])
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_an_earlier_version_keeps_its_order(tmp_path):
    shutil.copytree(ROOT / "tests" / "old_formats", tmp_path / "old")
    old = tmp_path / "old"
    model = ["--model.widths=[2,2,2,2,2,4,4]", "--data.image_size=40", "--data.crop_size=39"]
    flags = [*model, f"--data.shards={old / 'pixels'}", f"--run_dir={old / 'run'}"]
    resumed = prepare_training(parse_config(flags), ALONE)
    assert resumed.progress.iteration == 6
    assert (resumed.config.data.shuffle, resumed.train_set.order.shuffle) == (False, False)
    new = prepare_training(parse_config([*flags, f"--run_dir={tmp_path / 'new'}"]), ALONE)
    assert (new.config.data.shuffle, new.train_set.order.shuffle) == (True, True)


def test_other_pictures_or_another_network_are_refused_on_resume(trained, original_shards, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    other = [*NARROW, f"--data.shards={original_shards}", f"--run_dir={run_dir}", "--train.max_iter=14"]

    def train(*flags):
        with contextlib.chdir(ROOT):
            main([*other, *flags])

    with pytest.raises(UserError, match=r"another index than .* --checkpoint\.allow_other_index=true"):
        train()
    with pytest.raises(UserError, match=r"the run needs fc7\.weight of 64x32, the checkpoint has 32x32"):
        train("--checkpoint.allow_other_index=true", "--model.widths=[8,16,16,16,16,32,64]")
    with pytest.raises(UserError, match=r"exists already; remove"):
        train("--resume=none")
    with pytest.raises(UserError, match=r"iter_12 exists already, of another run; start from nowhere in"):
        train("--resume=nowhere")
    train("--checkpoint.allow_other_index=true")
    assert (run_dir / "checkpoints" / "iter_14").is_dir()
