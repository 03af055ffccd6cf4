import dataclasses
import json

import pytest
import torch

from stylefinetune import checkpoint, models
from stylefinetune.checkpoint import Progress
from stylefinetune.config import Config, ModelConfig
from stylefinetune.data_config import DataConfig
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import UserError

WIDTHS = (8, 16, 16, 16, 16, 32, 32)
CONFIG = Config(data=DataConfig(image_size=48, crop_size=43), model=ModelConfig(widths=WIDTHS))
MEANS = (torch.rand(48, 48, 3), torch.rand(48, 48, 3))
CLASSES = ["Noir", "Bokeh", "Hazy"]


def progress(iteration):
    return Progress(
        iteration, [1.5], [{"iteration": 0, "accuracy": 0.25, "loss": 3.5}], 1701, CLASSES, "f00d", [48, 48], [43, 43]
    )


def save(run_dir, iteration=5, seed=0, config=CONFIG):
    net = models.build(CONFIG.model, len(CLASSES), [(43, 43)], seed=1)
    torch.manual_seed(seed)
    parameters = {name: torch.randn_like(value) for name, value in net.named_parameters()}
    velocity = {name: torch.randn_like(value) for name, value in parameters.items()}
    state = EngineState(parameters, {}, {"momentum_buffer": velocity})
    config = dataclasses.replace(config, run_dir=str(run_dir))
    return state, checkpoint.save(run_dir, progress(iteration), state, config, MEANS)


def test_what_is_written_is_read_back_to_the_bit(tmp_path):
    state, path = save(tmp_path)
    assert path == tmp_path / "checkpoints" / "iter_5" == checkpoint.path_of(tmp_path, 5)
    found = checkpoint.read(path)
    assert found.progress == progress(5)
    assert found.config == dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    assert found.means[1].equal(MEANS[1])
    restored = found.engine_state(state)
    for name, value in state.parameters.items():
        assert torch.equal(restored.parameters[name], value)
        assert torch.equal(restored.slots["momentum_buffer"][name], state.slots["momentum_buffer"][name])


def test_the_network_needs_nothing_but_the_checkpoint(tmp_path):
    state, path = save(tmp_path)
    net, transform = checkpoint.read(path).network(torch.device("cpu"))
    assert not net.training
    assert torch.equal(net.get_submodule("fc7").weight.detach(), state.parameters["fc7.weight"])
    assert torch.equal(transform.mean, MEANS[1])


def test_a_run_folder_means_its_newest_checkpoint_by_number(tmp_path):
    for iteration in (5, 100, 20):
        save(tmp_path, iteration)
    (tmp_path / "checkpoints" / ".iter_200.new").mkdir()
    (tmp_path / "checkpoints" / "iter_300.damaged").mkdir()
    (tmp_path / "checkpoints" / "iter_best").mkdir()
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "iter_100"
    assert checkpoint.read(tmp_path).progress.iteration == 100
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_saving_again_replaces_the_folder_whole_and_clears_what_a_kill_left(tmp_path):
    torn = tmp_path / "checkpoints" / ".iter_5.new"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"torn")
    save(tmp_path, seed=0)
    state, path = save(tmp_path, seed=1)
    assert torch.equal(checkpoint.read(path).tensors["fc7.bias"], state.parameters["fc7.bias"])
    assert [entry.name for entry in path.parent.iterdir()] == ["iter_5"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "mean.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path, file):
    _, path = save(tmp_path)
    body = (path / file).read_bytes()
    (path / file).write_bytes(body[: len(body) // 2])
    with pytest.raises(UserError, match=r"iter_5 is damaged") as error:
        checkpoint.read(path)
    assert "\n" not in str(error.value)


def test_nothing_is_pickled(tmp_path):
    _, path = save(tmp_path)
    for file in path.iterdir():
        assert file.suffix in {".safetensors", ".json", ".yaml"}
    assert json.loads((path / "progress.json").read_text())["classes"] == CLASSES
