import pytest
import torch
from safetensors.torch import load_file

from tests.stylefinetune.engines.conftest import ALONE
from tests.stylefinetune.engines.every_stage import STAGES, pack, unpack, with_torch


@pytest.mark.parametrize("stage", STAGES)
def test_before_the_first_step_the_state_is_the_nets_at_rest(went_on, stage):
    assert went_on.told[str(stage)]["fresh is the net"]


@pytest.mark.parametrize("stage", STAGES)
def test_what_one_process_wrote_is_read_back_bitwise(went_on, stage):
    assert went_on.told[str(stage)]["read back"]


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_wrote_is_read_back_bitwise_by_one_process(went_on, stage):
    ours = load_file(went_on.folder / f"stage_{stage}.safetensors")
    assert "conv1.weight" in ours
    assert "momentum_buffer/conv1.weight" not in ours  # frozen
    alone = with_torch(ALONE)
    alone.load(unpack(ours))
    back = pack(alone.state())
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.parametrize("stage", STAGES)
def test_resuming_is_bitwise_with_dropout_too(went_on, stage):
    assert went_on.told[str(stage)]["resumed bitwise"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_layer_that_was_frozen_starts_at_rest(went_on, stage):
    assert went_on.told[str(stage)]["at rest"] == ["conv2.weight"]
