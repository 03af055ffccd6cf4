import dataclasses
import shutil

import numpy as np
import pytest
import torch

from stylefinetune.caffe.files import write_caffemodel
from stylefinetune.caffe.schema import message_class
from stylefinetune.checkpoint import checkpoint, resume
from stylefinetune.config.optim import LayerRule
from stylefinetune.config.schema import ModelConfig
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError
from stylefinetune.models import build
from tests.drawn_checkpoints import CLASSES, CONFIG, WIDTHS, progress, save


def test_resume_finds_the_checkpoint_that_the_config_names(tmp_path):
    run_dir = tmp_path / "run"
    config = dataclasses.replace(CONFIG, run_dir=str(run_dir))
    assert resume.find_checkpoint(config) is None
    assert resume.find_checkpoint(dataclasses.replace(config, resume="none")) is None
    save(run_dir, 5)
    _, later = save(run_dir, 10)
    assert resume.find_checkpoint(config).path == later
    assert (
        resume.find_checkpoint(dataclasses.replace(config, resume=str(run_dir / "checkpoints" / "iter_5"))).path.name
        == "iter_5"
    )
    new = dataclasses.replace(config, resume="none")
    with pytest.raises(UserError, match=r"iter_10 exists already; remove .* another --run_dir, or .* without --resume"):
        resume.find_checkpoint(new)
    assert resume.find_checkpoint(new, is_restarted=True).path == later


def test_a_run_from_another_runs_checkpoint_resumes_from_its_own(tmp_path):
    """The same command continues it after a kill; a checkpoint of the run itself is where the run goes back to."""
    _, other = save(tmp_path / "other", 5)
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "run"), resume=f"{tmp_path / 'other'}:5")
    assert resume.find_checkpoint(config).path == other
    _, first = save(tmp_path / "run", 7, config=config)
    _, second = save(tmp_path / "run", 9, config=config)
    assert resume.find_checkpoint(config).path == second
    shutil.rmtree(tmp_path / "other")
    assert resume.find_checkpoint(config).path == second
    back = dataclasses.replace(config, resume=f"{tmp_path / 'run'}:7")
    save(tmp_path / "run", 9, config=back)
    assert resume.find_checkpoint(back).path == first
    with pytest.raises(UserError, match=r"iter_9 exists already, of another run; .* without --resume"):
        resume.find_checkpoint(config)


def solver_state(folder, momenta=None, learned_net="elsewhere/small_iter_7.caffemodel"):
    """Write a solver state after 7 iterations of the network of CONFIG, and its weights next to it."""
    net = build.build_model(CONFIG.model, len(CLASSES), [(43, 43)], seed=3)
    message, layers = message_class("NetParameter")(), {}
    for name, parameter in net.named_parameters():
        layers.setdefault(name.rpartition(".")[0], []).append(parameter.detach().numpy())
    for name in layers:
        message.layer.add(name=name)
    write_caffemodel(folder / "small_iter_7.caffemodel", message, layers)
    if momenta is None:
        momenta = [np.full(parameter.shape, value, np.float32) for value, parameter in enumerate(net.parameters())]
    state = message_class("SolverState")(iter=7, learned_net=learned_net)
    for momentum in momenta:
        state.history.add(data=momentum.ravel(), shape={"dim": momentum.shape})
    (folder / "small_iter_7.solverstate").write_bytes(state.SerializeToString())
    return dataclasses.replace(
        CONFIG, run_dir=str(folder / "run"), resume=str(folder / "small_iter_7.solverstate")
    ), net


def test_a_caffe_solver_state_is_restored_with_the_weights_next_to_it(tmp_path):
    config, net = solver_state(tmp_path)
    means = (torch.zeros(1, 1, 3), torch.ones(1, 1, 3))
    assert resume.find_checkpoint(config) is None
    restored = resume.restore_solverstate(config, net, progress(0), means)
    assert restored.progress == progress(7)
    assert restored.means == means
    for value, (name, parameter) in enumerate(net.named_parameters()):
        assert torch.equal(restored.tensors[name], parameter.detach())
        assert restored.slots["momentum_buffer"][name].shape == parameter.shape
        assert restored.slots["momentum_buffer"][name].unique().tolist() == [value]
    assert resume.restore_solverstate(CONFIG, net, progress(0), means) is None


def test_a_run_from_a_solver_state_resumes_from_its_own_checkpoints(tmp_path):
    config, _ = solver_state(tmp_path)
    run_dir = tmp_path / "run"
    _, path = save(run_dir, 9, config=config)
    assert resume.find_checkpoint(config).path == path
    save(run_dir, 10, config=dataclasses.replace(config, resume="auto"))
    with pytest.raises(UserError, match=r"iter_10 exists already, of another run; start from .* another --run_dir, or"):
        resume.find_checkpoint(config)


def test_an_unusable_solver_state_is_one_line(tmp_path):
    def refused(match, config, classes=3):
        net = build.build_model(CONFIG.model, classes, [(43, 43)], seed=0)
        with pytest.raises(UserError, match=match) as error:
            resume.restore_solverstate(config, net, progress(0), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
        assert "\n" not in str(error.value)

    ones = [np.ones(2, np.float32)] * 16
    refused(r"has 15 momenta, the network has 16 blobs; .*solver other than SGD", solver_state(tmp_path, ones[1:])[0])
    refused(r"solverstate: the run needs conv1\.weight of 8x3x11x11, the file has 2", solver_state(tmp_path, ones)[0])
    config, _ = solver_state(tmp_path)
    refused(r"caffemodel: the run needs fc8_flickr\.weight of 9x32, the file has 3x32", config, classes=9)
    renamed = dataclasses.replace(config, model=ModelConfig(widths=WIDTHS, last_layer="fc8_other"))
    net = build.build_model(renamed.model, len(CLASSES), [(43, 43)], seed=0)
    with pytest.raises(UserError, match=r"fc8_other\.weight of 3x32, the file has no such layer"):
        resume.restore_solverstate(renamed, net, progress(0), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
    (tmp_path / "small_iter_7.caffemodel").unlink()
    refused(
        r"can't be used: its weights elsewhere/small_iter_7\.caffemodel are missing; put that file next to it", config
    )
    refused(r"solverstate can't be used: it names no weights", solver_state(tmp_path, learned_net="")[0])
    adamw = replaced(solver_state(tmp_path)[0], "optim.optimizer", "adamw")
    refused(r"solverstate has the momenta of Caffe's SGD, and optim\.optimizer is adamw; set it to caffe_sgd", adamw)
    refused(r"gone\.solverstate can't be read", dataclasses.replace(config, resume=str(tmp_path / "gone.solverstate")))


def test_other_classes_and_another_index_are_refused(tmp_path):
    _, path = save(tmp_path)
    found = checkpoint.read_checkpoint(path)
    resume.check_resumed_data(found, CONFIG, tuple(CLASSES), "f00d")
    with pytest.raises(UserError, match=r"iter_5 was trained on 3 classes, .* has 1; use another --run_dir"):
        resume.check_resumed_data(found, CONFIG, ("Cat",), "f00d")
    with pytest.raises(UserError, match=r"with class 1 called 'Bokeh', .* calls it 'Blur'; use another --run_dir"):
        resume.check_resumed_data(found, CONFIG, ("Noir", "Blur", "Haze"), "f00d")
    other = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, split="val"))
    with pytest.raises(UserError, match=r"was trained on split 'train', not 'val'"):
        resume.check_resumed_data(found, other, tuple(CLASSES), "f00d")
    with pytest.raises(UserError, match="another index"):
        resume.check_resumed_data(found, CONFIG, tuple(CLASSES), "beef")


def test_pictures_that_the_mean_picture_does_not_fit_are_refused(tmp_path):
    _, path = save(tmp_path)
    found = checkpoint.read_checkpoint(path)
    resume.check_resumed_means(found, CONFIG, [(48, 48), (48, 48)])
    resume.check_resumed_means(found, CONFIG, [(48, 48)])  # without tests
    with pytest.raises(UserError, match=r"the pictures are 48x56, and the mean picture is 48x48; resume with"):
        resume.check_resumed_means(found, CONFIG, [(48, 48), (48, 56)])
    with pytest.raises(UserError, match=r"iter_5 subtracts a mean picture: data\.augment cuts or erases pictures, but"):
        resume.check_resumed_means(found, replaced(CONFIG, "data.augment.random_erasing", 0.5), [(48, 48)])
    values = dataclasses.replace(found, means=(torch.zeros(1, 1, 3),) * 2)
    resume.check_resumed_means(values, CONFIG, [(48, 48), (48, 56)])


def damage(path):
    content = bytearray((path / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.safetensors").write_bytes(content)


def test_damaged_checkpoints_are_skipped_named_and_renamed(tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    _, good = save(tmp_path, 5)
    _, incomplete = save(tmp_path, 10)
    _, flipped = save(tmp_path, 15)
    (incomplete / "optimizer.safetensors").unlink()
    damage(flipped)
    found = resume.find_checkpoint(config)
    assert found.path == good
    assert [line.split(";")[0] for line in found.skipped] == [
        f"{flipped} is damaged (model.safetensors has changed since it was written)",
        f"{incomplete} is damaged (optimizer.safetensors is missing)",
    ]
    resume.rename_skipped(found, tmp_path)
    assert sorted(path.name for path in good.parent.iterdir()) == ["iter_10.damaged", "iter_15.damaged", "iter_5"]
    damage(good)
    with pytest.raises(
        UserError, match=r"all checkpoints of .* are damaged: .*iter_5 is damaged .*use another --run_dir"
    ):
        resume.find_checkpoint(config)
    with pytest.raises(UserError, match="iter_5 is damaged"):
        resume.find_checkpoint(dataclasses.replace(config, resume=str(good)))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("progress.json", "progress.json is missing"),
        ("manifest.json", "manifest.json is missing: the folder is incomplete"),
        ("*", "manifest.json is missing: the folder is incomplete"),
    ],
)
def test_a_checkpoint_that_lacks_a_file_is_skipped(tmp_path, pattern, reason):
    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path))
    _, good = save(tmp_path, 5)
    _, incomplete = save(tmp_path, 10)
    for file in incomplete.glob(pattern):
        file.unlink()
    found = resume.find_checkpoint(config)
    assert (found.path, found.skipped[0].split(";")[0]) == (good, f"{incomplete} is damaged ({reason})")
    with pytest.raises(UserError, match=f"iter_10 is damaged .{reason}"):
        resume.find_checkpoint(dataclasses.replace(config, resume=str(incomplete)))


def replaced(config, key, value):
    section, _, rest = key.partition(".")
    return dataclasses.replace(config, **{section: replaced(getattr(config, section), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("optim.base_lr", 0.01, "optim.base_lr changes from 0.001 to 0.01"),
        ("optim.momentum", 0.8, "optim.momentum changes from 0.9 to 0.8"),
        ("optim.optimizer", "sgd", 'optim.optimizer changes from "caffe_sgd" to "sgd"; its state starts at zero'),
        ("optim.lr_policy", "fixed", 'optim.lr_policy changes from "step" to "fixed"'),
        ("train.max_iter", 7, "train.max_iter changes from 100000 to 7"),
        ("model.dropout", 0.0, "model.dropout changes from 0.5 to 0.0"),
        ("data.crop_size", 40, "data.crop_size changes from 43 to 40"),
        ("data.test.crop_size", 40, "data.test.crop_size changes from null to 40"),
        ("train.seed", 2, "train.seed changes from 1701 to 2; the order of the pictures changes too"),
        ("data.batch_size", 60, "data.batch_size changes from 50 to 60; the order of the pictures changes too"),
        ("train.iter_size", 2, "train.iter_size changes from 1 to 2; the order of the pictures changes too"),
        ("data.shuffle", True, "data.shuffle changes from false to true; the order of the pictures changes too"),
        (
            "data.mean_value",
            (9,),
            "data.mean_value changes from [] to [9]; the mean of the checkpoint is subtracted anyway",
        ),
        ("engine", "deepspeed", 'engine changes from "torch" to "deepspeed"'),
    ],
)
def test_a_changed_setting_is_reported(key, value, line):
    before = replaced(replaced(CONFIG, "data.shuffle", False), "model.dropout", 0.5)
    assert resume.changed_settings(before, replaced(before, key, value)) == [line]


def test_a_changed_layer_rule_is_reported():
    (line,) = resume.changed_settings(CONFIG, replaced(CONFIG, "optim.layers", (LayerRule("conv*", 0.0),)))
    assert line.startswith('optim.layers changes from [{"match": "fc8_*", "lr_mult": 10.0, ')
    assert '] to [{"match": "conv*", "lr_mult": 0.0, ' in line


def test_a_new_key_of_deepspeeds_configuration_is_reported():
    config = replaced(CONFIG, "engine", "deepspeed")
    (line,) = resume.changed_settings(config, replaced(config, "deepspeed.extra", {"steps_per_print": 5}))
    assert line == "deepspeed.extra.steps_per_print changes from null to 5"


def test_settings_without_effect_on_the_result_are_not_reported():
    changed = {
        "run_dir": "elsewhere",
        "weights": "a.caffemodel",
        "resume": "none",
        "data.shards": "moved",
        "data.workers": 5,
        "data.resident": True,
        "data.stage_dir": "/local",
        "train.display": 1,
        "train.test_interval": 7,
        "train.test_initialization": False,
        "train.cuda_graph": True,
        "checkpoint.snapshot": 3,
        "tracking.wandb": "disabled",
        "deepspeed.zero_stage": 2,  # of the other engine
    }
    config = CONFIG
    for key, value in changed.items():
        config = replaced(config, key, value)
    assert resume.changed_settings(CONFIG, config) == []
    config = replaced(config, "engine", "deepspeed")
    assert "deepspeed.zero_stage changes from 1 to 2" in resume.changed_settings(CONFIG, config)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("optim.momentum", 0.8, "optim.momentum changes from 0.9 to 0.8"),
        ("weights", "b.caffemodel", 'weights changes from null to "b.caffemodel"'),
        ("model.bias_filler_value", (1.0,) * 8, "model.bias_filler_value changes from "),
        ("data.mean_value", (9,), "data.mean_value changes from [] to [9]"),
        ("train.max_iter", 4, "train.max_iter changes from 5 to 4"),
    ],
)
def test_another_recipe_for_a_finished_run_is_refused(tmp_path, key, value, line):
    config = dataclasses.replace(replaced(CONFIG, "train.max_iter", 5), run_dir="runs/a")
    _, path = save(tmp_path, 5, config=config)
    found = checkpoint.read_checkpoint(path)
    resume.check_not_finished(found, config)
    resume.check_not_finished(found, replaced(config, "train.display", 1))
    changed = replaced(config, key, value)
    with pytest.raises(UserError) as error:
        resume.check_not_finished(found, changed)
    message = str(error.value)
    assert message.startswith(f"{path} is after iteration 5 of {changed.train.max_iter}, so nothing would be trained ")
    assert f"with the changed settings: {line}" in message
    assert message.endswith("Use another --run_dir, or remove runs/a and start with --resume none")
    if key != "train.max_iter":
        resume.check_not_finished(found, replaced(changed, "train.max_iter", 6))


def test_a_run_may_be_ended_at_the_iteration_of_its_checkpoint(tmp_path):
    _, path = save(tmp_path, 5, config=replaced(CONFIG, "train.max_iter", 9))
    resume.check_not_finished(checkpoint.read_checkpoint(path), replaced(CONFIG, "train.max_iter", 5))


def test_ranks_that_find_different_checkpoints_are_refused(tmp_path):
    class OtherFolder(World):
        def min(self, values):
            return torch.minimum(values, torch.tensor([-1]) if values.item() > 0 else torch.tensor([-5]))

    save(tmp_path, 5)
    found = resume.find_checkpoint(dataclasses.replace(CONFIG, run_dir=str(tmp_path)))
    resume.check_ranks_agree(found, World(0, 1, torch.device("cpu")))
    with pytest.raises(UserError, match=r"one rank finds checkpoint iter_5, another none; put run_dir on a disk"):
        resume.check_ranks_agree(found, OtherFolder(0, 2, torch.device("cpu")))
