import dataclasses
import shutil

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.training.run import saved_checkpoints


def test_the_saved_checkpoints_have_the_tests_of_the_newest_one(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    config = read_checkpoint(tmp_path / "run").config
    saved = saved_checkpoints(dataclasses.replace(config, run_dir=str(tmp_path / "run")))
    last_test = read_checkpoint(tmp_path / "run").progress.tests[-1]
    assert [(one.path.name, one.iteration, one.test, one.is_best) for one in saved] == [
        ("iter_5", 5, {}, False),
        ("iter_10", 10, {}, False),
        ("iter_12", 12, last_test, True),
    ]
    assert saved_checkpoints(dataclasses.replace(config, run_dir=str(tmp_path / "none"))) == []
