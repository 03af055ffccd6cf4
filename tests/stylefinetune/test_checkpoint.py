import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from stylefinetune import checkpoint, models
from stylefinetune.caffe_files import write_caffemodel
from stylefinetune.caffe_schema import message_class
from stylefinetune.checkpoint import Progress
from stylefinetune.config import Config, ModelConfig
from stylefinetune.data_config import DataConfig
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import RankError, UserError

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
    (tmp_path / "checkpoints" / ".iter_200").mkdir()
    (tmp_path / "checkpoints" / "iter_best").mkdir()
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "iter_100"
    assert checkpoint.read(tmp_path).progress.iteration == 100
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_saving_again_replaces_the_folder_whole_and_clears_what_a_kill_left(tmp_path):
    torn = tmp_path / "checkpoints" / ".iter_5"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"torn")
    save(tmp_path, seed=0)
    state, path = save(tmp_path, seed=1)
    assert torch.equal(checkpoint.read(path).tensors["fc7.bias"], state.parameters["fc7.bias"])
    assert [entry.name for entry in path.parent.iterdir()] == ["iter_5"]


def test_resume_finds_what_it_is_asked_for(tmp_path):
    run_dir = tmp_path / "run"
    config = dataclasses.replace(CONFIG, run_dir=str(run_dir))
    assert checkpoint.find(config) is None
    assert checkpoint.find(dataclasses.replace(config, resume="none")) is None
    save(run_dir, 5)
    _, later = save(run_dir, 10)
    assert checkpoint.find(config).path == later
    assert (
        checkpoint.find(dataclasses.replace(config, resume=str(run_dir / "checkpoints" / "iter_5"))).path.name
        == "iter_5"
    )
    with pytest.raises(UserError, match=r"iter_10 is there already; remove .*, or start afresh in another --run_dir"):
        checkpoint.find(dataclasses.replace(config, resume="none"))


def caffes(folder, momenta=None, learned_net="elsewhere/small_iter_7.caffemodel"):
    """Writes a solver state after 7 iterations of CONFIG's network and, beside it, its weights."""
    net = models.build(CONFIG.model, len(CLASSES), [(43, 43)], seed=3)
    message, layers = message_class("NetParameter")(), {}
    for name, parameter in net.named_parameters():
        layers.setdefault(name.rpartition(".")[0], []).append(parameter.detach().numpy())
    for name in layers:
        message.layer.add(name=name)
    write_caffemodel(folder / "small_iter_7.caffemodel", message, layers)
    if momenta is None:
        momenta = [np.full(parameter.shape, place, np.float32) for place, parameter in enumerate(net.parameters())]
    state = message_class("SolverState")(iter=7, learned_net=learned_net)
    for momentum in momenta:
        state.history.add(data=momentum.ravel(), shape={"dim": momentum.shape})
    (folder / "small_iter_7.solverstate").write_bytes(state.SerializeToString())
    return dataclasses.replace(
        CONFIG, run_dir=str(folder / "run"), resume=str(folder / "small_iter_7.solverstate")
    ), net


def test_a_caffe_solvers_state_is_taken_over_with_the_weights_beside_it(tmp_path):
    config, net = caffes(tmp_path)
    means = (torch.zeros(1, 1, 3), torch.ones(1, 1, 3))
    assert checkpoint.find(config) is None
    restored = checkpoint.restore_caffe(config, net, progress(0), means)
    assert restored.progress == progress(7)
    assert restored.means == means
    for place, (name, parameter) in enumerate(net.named_parameters()):
        assert torch.equal(restored.tensors[name], parameter.detach())
        assert restored.slots["momentum_buffer"][name].shape == parameter.shape
        assert restored.slots["momentum_buffer"][name].unique().tolist() == [place]
    assert checkpoint.restore_caffe(CONFIG, net, progress(0), means) is None


def test_once_a_run_from_a_solvers_state_has_checkpoints_it_goes_on_from_them(tmp_path):
    config, _ = caffes(tmp_path)
    run_dir = tmp_path / "run"
    _, own = save(run_dir, 9, config=config)
    assert checkpoint.find(config).path == own
    save(run_dir, 10, config=dataclasses.replace(config, resume="auto"))
    with pytest.raises(UserError, match=r"iter_10, of another run, is there already; start from .* another --run_dir"):
        checkpoint.find(config)


def test_a_solver_state_that_cannot_serve_is_one_line(tmp_path):
    def refused(match, config, classes=3):
        net = models.build(CONFIG.model, classes, [(43, 43)], seed=0)
        with pytest.raises(UserError, match=match) as error:
            checkpoint.restore_caffe(config, net, progress(0), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
        assert "\n" not in str(error.value)

    ones = [np.ones(2, np.float32)] * 16
    refused(r"holds 15 momenta, the network has 16 blobs; .*solver other than SGD", caffes(tmp_path, ones[1:])[0])
    refused(r"solverstate: the run asks for conv1\.weight of 8x3x11x11, the file has 2", caffes(tmp_path, ones)[0])
    config, _ = caffes(tmp_path)
    refused(r"caffemodel: the run asks for fc8_flickr\.weight of 9x32, the file has 3x32", config, classes=9)
    renamed = dataclasses.replace(config, model=ModelConfig(widths=WIDTHS, last_layer="fc8_other"))
    net = models.build(renamed.model, len(CLASSES), [(43, 43)], seed=0)
    with pytest.raises(UserError, match=r"fc8_other\.weight of 3x32, the file has no such layer"):
        checkpoint.restore_caffe(renamed, net, progress(0), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
    (tmp_path / "small_iter_7.caffemodel").unlink()
    refused(r"needs its weights, elsewhere/small_iter_7\.caffemodel; put that file beside it", config)
    refused(r"whose name it lacks; put that file beside it", caffes(tmp_path, learned_net="")[0])
    refused(r"gone\.solverstate can't be read", dataclasses.replace(config, resume=str(tmp_path / "gone.solverstate")))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "mean.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path, file):
    _, path = save(tmp_path)
    body = (path / file).read_bytes()
    (path / file).write_bytes(body[: len(body) // 2])
    with pytest.raises(UserError, match=r"iter_5 is damaged") as error:
        checkpoint.read(path)
    assert "\n" not in str(error.value)


def test_other_classes_and_another_index_are_refused(tmp_path):
    _, path = save(tmp_path)
    found = checkpoint.read(path)
    checkpoint.check_data(found, CONFIG, tuple(CLASSES), "f00d")
    with pytest.raises(UserError, match=r"3 classes \(Noir, Bokeh, Hazy, \.\.\.\).* has 1 \(Cat, \.\.\.\)"):
        checkpoint.check_data(found, CONFIG, ("Cat",), "f00d")
    with pytest.raises(UserError, match="another index"):
        checkpoint.check_data(found, CONFIG, tuple(CLASSES), "beef")


def test_nothing_is_pickled(tmp_path):
    _, path = save(tmp_path)
    for file in path.iterdir():
        assert file.suffix in {".safetensors", ".json", ".yaml"}
    assert json.loads((path / "progress.json").read_text())["classes"] == CLASSES


def test_a_disk_that_refuses_is_one_line_and_leaves_the_last_one_whole(tmp_path, monkeypatch):
    state, path = save(tmp_path, 5)

    def no_room(tensors, file):
        del tensors
        raise SafetensorError(f"I/O error: No space left on device, {file.name}")

    monkeypatch.setattr("stylefinetune.checkpoint.save_file", no_room)
    with pytest.raises(RankError, match=r"iter_6 can't be written \(I/O error: No space left.*; make room"):
        save(tmp_path, 6)
    assert torch.equal(checkpoint.read(tmp_path).tensors["fc7.bias"], state.parameters["fc7.bias"])
    assert [entry.name for entry in path.parent.iterdir()] == ["iter_5"]
