import dataclasses
import importlib.util
import math

import pytest
from safetensors.torch import load_file

from stylefinetune.config.deepspeed import FOLLOWS, DeepSpeedConfig
from stylefinetune.config.schema import Config, OptimConfig, TrainConfig
from stylefinetune.engines import deepspeed_engine
from stylefinetune.engines.deepspeed_engine import derive
from stylefinetune.errors import UserError
from tests.stylefinetune.engines.every_stage import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_any_stage_on_any_number_of_ranks_does_what_pytorch_alone_does(alone, went_on, stage):
    told = went_on.told[str(stage)]
    assert told["losses"] == pytest.approx(alone.losses, abs=1e-6)
    ours = load_file(went_on.folder / f"stage_{stage}.safetensors")
    assert ours.keys() == alone.end.keys()
    assert max((ours[name] - alone.end[name]).abs().max().item() for name in ours) < 1e-6
    moved = [(ours[name] - alone.start[name]).abs().max().item() for name in ours if "conv1" not in name]
    assert min(moved) > 1e-5
    assert told["logits"][1] == 5


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_is_what_it_is_with_pytorch_alone_on_the_same_ranks(went_on, stage):
    ours, theirs = went_on.told[str(stage)]["dropped"]
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_is_caffes(went_on, stage):
    assert went_on.told[str(stage)]["clipped"] < 1e-6


@pytest.mark.parametrize("stage", STAGES)
def test_channels_last_is_another_layout_of_the_same_numbers(alone, went_on, stage):
    told = went_on.told[str(stage)]
    assert told["layouts"][-1] is True
    assert told["in channels_last"] == pytest.approx(alone.losses, abs=1e-6)


def test_lars_at_stage_0_is_what_it_is_with_pytorch_alone_and_resumes_bitwise(went_on):
    told = went_on.told["lars"]
    assert told["losses"][0] == pytest.approx(told["losses"][1], abs=1e-6)
    assert told["apart"] < 1e-6
    assert told["resumed bitwise"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_lars_is_refused_where_tensors_are_cut_up(stage):
    lars = Config(optim=OptimConfig(lars_trust=0.001), deepspeed=DeepSpeedConfig(zero_stage=stage))
    with pytest.raises(UserError, match=rf"optim\.lars_trust is 0\.001.*deepspeed\.zero_stage {stage}"):
        deepspeed_engine.check(lars)
    deepspeed_engine.check(dataclasses.replace(lars, deepspeed=DeepSpeedConfig(zero_stage=0)))


def test_compile_is_refused_by_name():
    with pytest.raises(UserError, match=r"train\.compile is for --engine torch"):
        deepspeed_engine.check(Config(train=TrainConfig(compile=True)))


def test_bf16_keeps_fp32_and_trains_nearly_the_same(alone, went_on):
    told = went_on.told["bf16"]
    assert told["losses"] == pytest.approx(alone.losses, abs=0.05)
    assert told["losses"] != pytest.approx(alone.losses, abs=1e-6)
    assert told["kept as"] == ["torch.float32"]


@pytest.mark.parametrize("stage", STAGES)
def test_fp16_scales_the_loss_clips_and_skips_as_pytorch_alone_does_on_the_same_ranks(went_on, stage):
    told = went_on.told["fp16"][str(stage)]
    assert told["first"] == {"loss_scale": 4096.0, "good_steps": 0}
    ours, theirs = told["losses"]
    assert ours == pytest.approx(theirs, abs=2e-3)
    halved, doubled = {"loss_scale": 2.0**39, "good_steps": 0}, {"loss_scale": 512.0, "good_steps": 0}
    assert told["scalars"] == [halved, doubled] * 2
    assert told["stayed"], "an update whose gradients aren't finite was made"
    assert told["apart"] < 2e-3 < told["moved"]
    assert told["resumed bitwise"]
    assert math.isnan(told["at an end"])


def test_an_update_that_deepspeed_leaves_out_is_told(went_on):
    told = went_on.told["overflow"]
    assert math.isnan(told["loss"])
    assert told["left as it was"]


def test_what_deepspeed_refuses_is_one_line_that_names_where_it_comes_from(went_on):
    assert went_on.told["refused"].startswith("DeepSpeed refuses what deepspeed.extra asks for: ")
    assert "tag_validation" in went_on.told["refused"]
    assert "\n" not in went_on.told["refused"]


def test_what_deepspeed_says_goes_to_a_file(went_on):
    for word in ("DeepSpeed", "untested", "Warning"):
        assert word not in went_on.said
    assert "untested optimizer" in (went_on.folder / "deepspeed.log").read_text()


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("stage", STAGES)
def test_all_that_deepspeed_is_told_follows_from_the_config_and_nothing_else_may_say_it(stage):
    config = Config(
        optim=OptimConfig(clip_gradients=6.0),
        train=TrainConfig(iter_size=3, precision="bf16"),
        deepspeed=DeepSpeedConfig(zero_stage=stage),
    )
    derived = derive(config, world_size=8)
    assert derived["zero_optimization"]["stage"] == stage
    assert derived["gradient_clipping"] == 2.0
    assert derived["gradient_accumulation_steps"] == 3
    assert derived["torch_autocast"]["enabled"]
    assert derived["train_micro_batch_size_per_gpu"] == 6
    assert derive(Config(), 100)["train_micro_batch_size_per_gpu"] == 1
    for key in leaves(derived):
        assert any(key == taken or key.startswith(f"{taken}.") for taken in FOLLOWS), key


def test_not_to_clip_is_said_since_deepspeed_would_clip_to_1():
    assert derive(Config(), 1)["gradient_clipping"] == 0.0


def test_further_keys_are_merged_in():
    extra = {"zero_optimization": {"reduce_bucket_size": 1000}, "steps_per_print": 5}
    derived = derive(Config(deepspeed=DeepSpeedConfig(extra=extra)), 1)
    assert derived["zero_optimization"] == {"stage": 1, "compute_grad_norm": False, "reduce_bucket_size": 1000}
    assert derived["steps_per_print"] == 5


def test_what_deepspeed_takes_for_no_clipping_is_refused():
    with pytest.raises(UserError, match=r"optim\.clip_gradients is 0"):
        deepspeed_engine.check(Config(optim=OptimConfig(clip_gradients=0.0)))


def test_without_deepspeed_the_run_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install"):
        deepspeed_engine.check(Config())
