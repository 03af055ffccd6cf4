import dataclasses
import importlib.util
import math
import re

import pytest
from safetensors.torch import load_file

from stylefinetune.config.deepspeed import DERIVED_KEYS, DeepSpeedConfig
from stylefinetune.config.optim import OptimConfig
from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.engines import deepspeed_engine
from stylefinetune.engines.deepspeed_engine import derive_config
from stylefinetune.errors import UserError
from tests.stylefinetune.engines.every_stage import STAGES

pytestmark = pytest.mark.xdist_group("deepspeed engine")  # they share a session's fixture


@pytest.mark.parametrize("stage", STAGES)
def test_any_stage_on_any_number_of_ranks_trains_like_pytorch(alone, deepspeed_run, stage):
    results = deepspeed_run.results[str(stage)]
    assert results["losses"] == pytest.approx(alone.losses, abs=1e-6)
    ours = load_file(deepspeed_run.folder / f"stage_{stage}.safetensors")
    assert ours.keys() == alone.end.keys()
    assert max((ours[name] - alone.end[name]).abs().max().item() for name in ours) < 1e-6
    moved = [(ours[name] - alone.start[name]).abs().max().item() for name in ours if "conv1" not in name]
    assert min(moved) > 1e-5
    assert results["logits"][1] == 5


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_is_what_it_is_with_pytorch_alone_on_the_same_ranks(deepspeed_run, stage):
    ours, theirs = deepspeed_run.results[str(stage)]["dropped"]
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_is_caffes(deepspeed_run, stage):
    assert deepspeed_run.results[str(stage)]["clipped"] < 1e-6


@pytest.mark.parametrize("stage", STAGES)
def test_norms_by_layer_are_those_of_pytorch_and_of_one_rank_before_clipping(alone, deepspeed_run, stage):
    ours, theirs = deepspeed_run.results[str(stage)]["norms"]
    assert near(ours, theirs)
    assert ours[0]["grad_norm"] > 0.5, "clipping is the limit of 0.5"
    for name, norm in alone.norms.items():
        if name.startswith("grad_norm"):
            assert ours[0][name] == pytest.approx(norm, rel=1e-5)
    ours, theirs = deepspeed_run.results["adamw"][str(stage)]["norms"]
    assert near(ours, theirs)


def near(ours, theirs):
    """Return whether the norms of some iterations agree within 1e-5; an update loses digits when it is applied."""
    assert [list(norms) for norms in ours] == [list(norms) for norms in theirs]
    return all(
        one[name] == pytest.approx(other[name], rel=1e-3 if name.startswith("update") else 1e-5)
        for one, other in zip(ours, theirs, strict=True)
        for name in one
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_contiguous_format_is_another_layout_of_the_same_numbers(alone, deepspeed_run, stage):
    results = deepspeed_run.results[str(stage)]
    assert results["layouts"] == [False]
    assert results["in contiguous format"] == pytest.approx(alone.losses, abs=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_adamw_at_any_stage_is_what_it_is_with_pytorch_alone_and_resumes_bitwise(deepspeed_run, stage):
    results = deepspeed_run.results["adamw"][str(stage)]
    assert results["read back"], "a state of PyTorch's engine"
    assert results["slots"] == [*(["ema"] if stage < 3 else []), "exp_avg", "exp_avg_sq", "step"]
    assert results["averages agree"]
    assert results["steps"] == {"fc6": 5, "conv2": 3, "conv3": 1}, "conv2 thaws in iteration 2, and conv3 in 4"
    assert results["thawed"] == [True, False]
    assert results["losses"][0] == pytest.approx(results["losses"][1], abs=1e-6)
    assert results["apart"] < 1e-5
    assert results["resumed bitwise"]
    # Alone among its group, fc6's weights have not been trained yet.
    if stage == 0:
        assert results["refused"] is None
    else:
        assert re.search(r"fc6\.weight (is trained )?for 0", results["refused"])
        assert results["refused"].endswith("use deepspeed.zero_stage 0, or --engine torch")


def test_lars_at_stage_0_is_what_it_is_with_pytorch_alone_and_resumes_bitwise(deepspeed_run):
    results = deepspeed_run.results["lars"]
    assert results["losses"][0] == pytest.approx(results["losses"][1], abs=1e-6)
    assert results["apart"] < 1e-6
    assert results["resumed bitwise"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_lars_is_refused_at_stages_that_partition_tensors(stage):
    lars = Config(optim=OptimConfig(lars_trust=0.001), deepspeed=DeepSpeedConfig(zero_stage=stage))
    with pytest.raises(UserError, match=rf"optim\.lars_trust is 0\.001.*deepspeed\.zero_stage {stage}"):
        deepspeed_engine.check_deepspeed(lars)
    deepspeed_engine.check_deepspeed(dataclasses.replace(lars, deepspeed=DeepSpeedConfig(zero_stage=0)))


def test_an_average_of_the_weights_is_refused_at_stage_3():
    config = Config(train=TrainConfig(ema_decay=0.9), deepspeed=DeepSpeedConfig(zero_stage=3))
    with pytest.raises(UserError, match=r"train\.ema_decay is 0\.9.*set deepspeed\.zero_stage to 2 or less"):
        deepspeed_engine.check_deepspeed(config)
    deepspeed_engine.check_deepspeed(dataclasses.replace(config, deepspeed=DeepSpeedConfig(zero_stage=2)))


def test_compile_is_refused():
    with pytest.raises(UserError, match=r"train\.compile is for --engine torch"):
        deepspeed_engine.check_deepspeed(Config(train=TrainConfig(compile=True)))


def test_bf16_stores_fp32_and_trains_nearly_the_same(alone, deepspeed_run):
    results = deepspeed_run.results["bf16"]
    assert results["losses"] == pytest.approx(alone.losses, abs=0.05)
    assert results["losses"] != pytest.approx(alone.losses, abs=1e-6)
    assert results["kept as"] == ["torch.float32"]


@pytest.mark.parametrize("stage", STAGES)
def test_fp16_scales_clips_and_skips_like_pytorch_on_the_same_ranks(deepspeed_run, stage):
    results = deepspeed_run.results["fp16"][str(stage)]
    assert results["first"] == {"loss_scale": 4096.0, "good_steps": 0}
    ours, theirs = results["losses"]
    assert ours == pytest.approx(theirs, abs=2e-3)
    halved, doubled = {"loss_scale": 2.0**39, "good_steps": 0}, {"loss_scale": 512.0, "good_steps": 0}
    assert results["scalars"] == [halved, doubled] * 2
    assert results["stayed"], "an update whose gradients aren't finite was made"
    assert results["apart"] < 2e-3 < results["moved"]
    assert results["resumed bitwise"]
    assert math.isnan(results["at an end"])


def test_fp16_at_stage_0_also_removes_the_scale_from_gradients_that_are_not_clipped(deepspeed_run):
    results = deepspeed_run.results["unclipped fp16"]
    ours, theirs = results["norms"]
    assert [norms["grad_norm"] for norms in ours] == pytest.approx([norms["grad_norm"] for norms in theirs], rel=0.01)
    assert results["apart"] < 2e-3


def test_a_skipped_update_is_reported_as_a_nan_loss(deepspeed_run):
    results = deepspeed_run.results["overflow"]
    assert math.isnan(results["loss"])
    assert results["left as it was"]


def test_an_error_of_deepspeed_is_one_line_that_names_deepspeed_extra(deepspeed_run):
    assert deepspeed_run.results["refused"].startswith("DeepSpeed rejects deepspeed.extra: ")
    assert "tag_validation" in deepspeed_run.results["refused"]
    assert "\n" not in deepspeed_run.results["refused"]


def test_the_output_of_deepspeed_goes_to_a_file(deepspeed_run):
    for word in ("DeepSpeed", "untested", "Warning"):
        assert word not in deepspeed_run.output
    assert "untested optimizer" in (deepspeed_run.folder / "deepspeed.log").read_text()


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("stage", STAGES)
def test_every_derived_key_follows_from_the_config_and_is_refused_in_extra(stage):
    config = Config(
        optim=OptimConfig(clip_gradients=6.0),
        train=TrainConfig(iter_size=3, precision="bf16"),
        deepspeed=DeepSpeedConfig(zero_stage=stage),
    )
    derived = derive_config(config, world_size=8)
    assert derived["zero_optimization"]["stage"] == stage
    assert derived["gradient_clipping"] == 2.0
    assert derived["gradient_accumulation_steps"] == 3
    assert derived["torch_autocast"]["enabled"]
    assert derived["train_micro_batch_size_per_gpu"] == 6
    assert derive_config(Config(), 100)["train_micro_batch_size_per_gpu"] == 1
    for key in leaves(derived):
        assert any(key == taken or key.startswith(f"{taken}.") for taken in DERIVED_KEYS), key


def test_clipping_is_disabled_explicitly_since_deepspeeds_default_is_1():
    assert derive_config(Config(), 1)["gradient_clipping"] == 0.0


def test_extra_keys_are_merged_in():
    extra = {"zero_optimization": {"reduce_bucket_size": 1000}, "steps_per_print": 5}
    derived = derive_config(Config(deepspeed=DeepSpeedConfig(extra=extra)), 1)
    assert derived["zero_optimization"] == {"stage": 1, "compute_grad_norm": False, "reduce_bucket_size": 1000}
    assert derived["steps_per_print"] == 5


def test_a_clipping_limit_of_0_is_refused():
    with pytest.raises(UserError, match=r"optim\.clip_gradients is 0"):
        deepspeed_engine.check_deepspeed(Config(optim=OptimConfig(clip_gradients=0.0)))


def test_without_deepspeed_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install"):
        deepspeed_engine.check_deepspeed(Config())
