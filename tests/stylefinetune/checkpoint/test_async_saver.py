import dataclasses
import subprocess
import threading

import pytest
import torch

from stylefinetune.checkpoint import async_saver, checkpoint
from stylefinetune.checkpoint.async_saver import AsyncSaver, checkpoints_to_remove, is_finite
from stylefinetune.checkpoint.checkpoint import Progress
from stylefinetune.checkpoint.folders import checkpoint_path
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import CheckpointConfig, Config, ModelConfig
from stylefinetune.distributed.world import World
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import RankError
from tests.programs import python

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
MEANS = (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))


def progress(iteration, *accuracies):
    tests = [{"iteration": at, "accuracy": accuracy, "loss": 1.0} for at, accuracy in accuracies]
    return Progress(iteration, [1.0], tests, 1, ["a"], "f00d", [48, 48], [43, 43])


def state(value, size=4):
    weights = {"fc.weight": torch.full((size,), value)}
    return EngineState(weights, {}, {"momentum_buffer": {"fc.weight": torch.full((size,), -value)}})


def saver(run_dir, saved=None, **keep):
    config = Config(run_dir=str(run_dir), data=DataConfig(image_size=48, crop_size=43), model=ModelConfig())
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(**keep))
    return AsyncSaver(config, ALONE, MEANS, progress(0), (saved if saved is not None else []).append)


def names(run_dir):
    return sorted((path.name for path in (run_dir / "checkpoints").iterdir()), key=lambda name: int(name[5:]))


def test_a_checkpoint_is_written_from_a_copy_while_training_continues(tmp_path, monkeypatch):
    gate, saved = threading.Event(), []

    def blocked(*arguments):
        assert gate.wait(60)
        return checkpoint.save_checkpoint(*arguments)

    monkeypatch.setattr(async_saver, "save_checkpoint", blocked)
    checkpoints = saver(tmp_path, saved)
    trained = state(1.0)
    pause = checkpoints.save(progress(1), trained)
    trained.parameters["fc.weight"].fill_(9.0)  # the next step
    assert pause >= 0
    assert saved == []
    checkpoints.raise_failure()
    gate.set()
    checkpoints.wait()
    assert saved == [checkpoint_path(tmp_path, 1)]
    assert checkpoint.read_checkpoint(tmp_path).tensors["fc.weight"].tolist() == [1.0] * 4
    assert checkpoint.read_checkpoint(tmp_path).slots["momentum_buffer"]["fc.weight"].tolist() == [-1.0] * 4


def test_no_two_checkpoints_are_written_at_once(tmp_path, monkeypatch):
    running, counts = [], []

    def counted(*arguments):
        running.append(1)
        counts.append(len(running))
        path = checkpoint.save_checkpoint(*arguments)
        running.pop()
        return path

    monkeypatch.setattr(async_saver, "save_checkpoint", counted)
    checkpoints = saver(tmp_path)
    for iteration in range(1, 6):
        checkpoints.save(progress(iteration), state(float(iteration)))
    checkpoints.wait()
    assert counts == [1] * 5
    for iteration in range(1, 6):
        path = checkpoint_path(tmp_path, iteration)
        assert checkpoint.read_checkpoint(path).tensors["fc.weight"].tolist() == [float(iteration)] * 4


def test_the_saver_knows_which_progress_is_saved(tmp_path):
    checkpoints = saver(tmp_path)
    assert checkpoints.is_saved(progress(0))
    assert not checkpoints.is_saved(progress(0, (0, 0.5)))
    checkpoints.save(progress(1), state(1.0))
    assert checkpoints.is_saved(progress(1))
    assert not checkpoints.is_saved(progress(1, (1, 0.5)))
    assert checkpoints.newest() == checkpoint_path(tmp_path, 1)


def test_the_last_the_best_and_every_nth_are_kept(tmp_path):
    checkpoints = saver(tmp_path, keep_last=2, keep_every=4)
    tests = []
    for iteration, accuracy in enumerate([0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6], start=1):
        checkpoints.save(progress(iteration, *tests), state(1.0))
        checkpoints.wait()
        tests.append((iteration, accuracy))  # a checkpoint is tested after it is written
    assert names(tmp_path) == ["iter_3", "iter_4", "iter_6", "iter_7"]
    assert (tmp_path / "best").resolve() == tmp_path / "checkpoints" / "iter_3"


def test_the_best_checkpoint_may_be_the_one_with_the_lowest_loss(tmp_path):
    checkpoints = saver(tmp_path, keep_last=1, best_metric="loss")
    tests = []
    for iteration, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0], start=1):
        so_far = dataclasses.replace(progress(iteration), tests=[*tests])
        checkpoints.save(so_far, state(1.0))
        checkpoints.wait()
        tests.append({"iteration": iteration, "accuracy": 0.1 * iteration, "loss": loss})
    assert names(tmp_path) == ["iter_2", "iter_5"]
    assert (tmp_path / "best").resolve() == tmp_path / "checkpoints" / "iter_2"


def test_all_checkpoints_are_kept_by_default_and_the_new_one_always(tmp_path):
    found = [checkpoint_path(tmp_path, iteration) for iteration in (30, 20, 10)]
    assert checkpoints_to_remove(found, found[0], [], CheckpointConfig()) == []
    assert checkpoints_to_remove(found, found[0], [], CheckpointConfig(keep_last=1)) == found[1:]
    # The new checkpoint has a lower iteration than those of an earlier run.
    assert checkpoints_to_remove(found, found[2], [], CheckpointConfig(keep_last=1)) == [found[1]]
    best = [{"iteration": 20, "accuracy": 0.5, "loss": 1.0}]
    assert checkpoints_to_remove(found, found[0], best, CheckpointConfig(keep_last=1)) == [found[2]]
    assert checkpoints_to_remove(found, found[0], best, CheckpointConfig(keep_last=1, keep_best=False)) == found[1:]


def test_a_number_that_is_not_finite_is_found_in_weights_and_momenta():
    assert is_finite(state(1.0), ALONE)
    for bad in (float("nan"), float("inf")):
        assert not is_finite(state(bad), ALONE)
        assert not is_finite(dataclasses.replace(state(1.0), slots=state(bad).slots), ALONE)


FULL = """
import resource, sys
from pathlib import Path
from stylefinetune.errors import RankError
from tests.stylefinetune.checkpoint.test_async_saver import progress, saver, state

checkpoints = saver(Path(sys.argv[1]))
checkpoints.save(progress(1), state(1.0, 10000))
checkpoints.wait()
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
checkpoints.save(progress(2), state(2.0, 10000))
try:
    checkpoints.wait()
except RankError as error:
    print(error)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KB, large enough for one checkpoint of 80 KB but not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def check_full(run_dir, done, reason):
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout
    assert f"iter_2 can't be written ({reason}" in lines[0]
    assert lines[0].endswith("free some disk space, then run the same command again")
    assert names(run_dir) == ["iter_1"]
    assert checkpoint.read_checkpoint(run_dir).tensors["fc.weight"].tolist() == [1.0] * 10000


def test_a_full_disk_is_one_line_and_the_last_checkpoint_remains(small_disk):
    check_full(small_disk, python("-c", FULL, small_disk), "No space left on device")


def test_a_file_size_limit_is_one_line_and_the_last_checkpoint_remains(tmp_path):
    check_full(tmp_path, python("-c", FULL, tmp_path, "limited"), "File too large")


def test_an_error_of_the_writer_is_raised_in_the_loop(tmp_path):
    checkpoints = saver(tmp_path)
    (tmp_path / "checkpoints").write_text("in the way")
    checkpoints.save(progress(1), state(1.0))
    with pytest.raises(RankError, match="iter_1 can't be written"):
        checkpoints.wait()
    with pytest.raises(RankError, match="iter_1 can't be written"):
        checkpoints.raise_failure()
