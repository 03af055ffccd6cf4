import dataclasses
import json
import threading

import pytest
import torch

from stylefinetune.checkpoint import checkpoint, resume
from stylefinetune.checkpoint.atomic_folder import remove_folder
from stylefinetune.checkpoint.folders import checkpoint_path, newest_checkpoint
from stylefinetune.data.transforms import Crops
from stylefinetune.errors import UserError
from tests.drawn_checkpoints import CLASSES, CONFIG, MEANS, progress, save


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path):
    state, path = save(tmp_path)
    assert path == tmp_path / "checkpoints" / "iter_5" == checkpoint_path(tmp_path, 5)
    found = checkpoint.read_checkpoint(path)
    assert found.progress == progress(5)
    assert found.config == dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    assert found.means[1].equal(MEANS[1])
    restored = found.engine_state(state, "caffe_sgd")
    assert restored.scalars == state.scalars == {"loss_scale": 512.0, "good_steps": 3}
    for name, value in state.parameters.items():
        assert torch.equal(restored.parameters[name], value)
        assert torch.equal(restored.slots["momentum_buffer"][name], state.slots["momentum_buffer"][name])


def test_all_files_of_a_checkpoint_have_the_same_permissions(tmp_path):
    _, path = save(tmp_path)
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_another_optimizer_gets_the_weights_and_no_slots(tmp_path):
    state, path = save(tmp_path)
    restored = checkpoint.read_checkpoint(path).engine_state(state, "sgd")  # its slot would have the same name
    assert restored.slots == {}
    assert restored.parameters.keys() == state.parameters.keys()


def test_the_average_of_the_weights_takes_their_place_on_request_and_survives_another_optimizer(tmp_path):
    state, path = save(tmp_path)
    found = checkpoint.read_checkpoint(path)
    assert found.with_weights(ema=True) is found.with_weights(ema=False) is found  # it has none
    average = {name: value + 1 for name, value in state.parameters.items()}
    averaged = dataclasses.replace(found, slots={**found.slots, "ema": average})
    assert averaged.with_weights(ema=True).tensors is average
    assert averaged.with_weights(ema=False).tensors is found.tensors
    assert averaged.engine_state(state, "adamw").slots == {"ema": average}


def test_the_network_is_built_from_the_checkpoint_alone(tmp_path):
    state, path = save(tmp_path)
    net, transform = checkpoint.read_checkpoint(path).build_network(torch.device("cpu"))
    assert not net.training
    assert torch.equal(net.get_submodule("fc7").weight.detach(), state.parameters["fc7.weight"])
    corner = torch.zeros(1, dtype=torch.int64)
    black = transform(torch.zeros(1, 48, 48, 3, dtype=torch.uint8), Crops(corner, corner, corner > 0, (48, 48)))
    assert torch.equal(black[0].permute(1, 2, 0).flip(-1), -MEANS[1])  # BGR


def test_a_run_folder_stands_for_its_checkpoint_with_the_highest_iteration(tmp_path):
    for iteration in (5, 100, 20):
        save(tmp_path, iteration)
    (tmp_path / "checkpoints" / ".iter_200.new").mkdir()
    (tmp_path / "checkpoints" / "iter_300.damaged").mkdir()
    (tmp_path / "checkpoints" / "iter_best").mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "iter_100"
    assert checkpoint.read_checkpoint(tmp_path).progress.iteration == 100
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("find", ["read", "resume"])
def test_a_checkpoint_can_be_read_while_the_run_removes_old_ones(tmp_path, find):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    save(tmp_path, 1)
    done = threading.Event()
    was_read = threading.Event()

    def train():
        for iteration in range(2, 30):
            save(tmp_path, iteration)
            if iteration % 3 == 0:  # so that a reader misses the newest checkpoint fewer than ten times in a row
                was_read.clear()
                was_read.wait(60)
            remove_folder(checkpoint_path(tmp_path, iteration - 1))
        done.set()

    run = threading.Thread(target=train)
    run.start()
    try:
        seen = []
        while not done.is_set():
            found = checkpoint.read_checkpoint(tmp_path) if find == "read" else resume.find_checkpoint(config)
            was_read.set()
            assert not found.skipped
            seen.append(found.progress.iteration)
        assert len(set(seen)) > 3
    finally:
        run.join()


def test_a_removed_checkpoint_is_not_called_damaged(tmp_path):
    _, path = save(tmp_path)
    remove_folder(path)
    with pytest.raises(checkpoint.RemovedCheckpointError, match=r"iter_5 was removed by its run while .*keep_last"):
        checkpoint.read_checkpoint_folder(path)


@pytest.mark.parametrize("file", ["optimizer.safetensors", "mean.safetensors", "model.safetensors"])
def test_a_checkpoint_that_is_removed_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch, file):
    _, path = save(tmp_path)
    load_file = checkpoint.load_file

    def remove_and_load(file_path):
        if file_path.name == file:
            remove_folder(path)
        return load_file(file_path)

    monkeypatch.setattr(checkpoint, "load_file", remove_and_load)
    with pytest.raises(checkpoint.RemovedCheckpointError):
        checkpoint.read_checkpoint_folder(path)


def test_saving_again_replaces_the_folder_and_what_a_kill_left(tmp_path):
    partial = tmp_path / "checkpoints" / ".iter_5.new"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"partial")
    save(tmp_path, seed=0)
    state, path = save(tmp_path, seed=1)
    assert torch.equal(checkpoint.read_checkpoint(path).tensors["fc7.bias"], state.parameters["fc7.bias"])
    assert [entry.name for entry in path.parent.iterdir()] == ["iter_5"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "mean.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path, file):
    _, path = save(tmp_path)
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"iter_5 is damaged") as error:
        checkpoint.read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_nothing_is_pickled(tmp_path):
    _, path = save(tmp_path)
    for file in path.iterdir():
        assert file.suffix in {".safetensors", ".json", ".yaml"}
    assert json.loads((path / "progress.json").read_text())["classes"] == CLASSES
