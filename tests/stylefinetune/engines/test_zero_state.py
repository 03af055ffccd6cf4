import pytest
import torch
from safetensors.torch import load_file

from tests.stylefinetune.engines.conftest import ALONE
from tests.stylefinetune.engines.every_stage import STAGES, pack, unpack, with_torch

pytestmark = pytest.mark.xdist_group("deepspeed engine")  # they share a session's fixture


@pytest.mark.parametrize("stage", STAGES)
def test_before_the_first_step_momenta_are_zero(deepspeed_run, stage):
    assert deepspeed_run.results[str(stage)]["fresh is the net"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_of_one_process_is_loaded_bitwise(deepspeed_run, stage):
    assert deepspeed_run.results[str(stage)]["read back"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_of_any_stage_is_loaded_bitwise_by_one_process(deepspeed_run, stage):
    ours = load_file(deepspeed_run.folder / f"stage_{stage}.safetensors")
    assert "conv1.weight" in ours
    assert "momentum_buffer/conv1.weight" not in ours  # frozen
    alone = with_torch(ALONE)
    alone.load(unpack(ours))
    back = pack(alone.state())
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.parametrize("stage", STAGES)
def test_resuming_is_bitwise_equal_also_with_dropout(deepspeed_run, stage):
    assert deepspeed_run.results[str(stage)]["resumed bitwise"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_layer_that_was_frozen_starts_with_zero_momentum(deepspeed_run, stage):
    assert deepspeed_run.results[str(stage)]["at rest"] == ["conv2.weight"]
