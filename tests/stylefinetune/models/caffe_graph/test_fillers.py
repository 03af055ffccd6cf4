import math

import pytest
import torch

from stylefinetune.caffe.graph.store import read_stored
from stylefinetune.errors import UserError
from stylefinetune.models.caffe_graph.fillers import fill

NET = """input: "data"
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 40 kernel_size: 5 weight_filler { %s } } }"""


def filled(filler, shape=(40, 30, 5, 5)):
    """Return a blob that a filler in prototxt has drawn."""
    (layer,) = read_stored(NET % filler, "TEST").layers
    blob = torch.full(shape, torch.nan)
    fill(blob, layer.message.convolution_param.weight_filler, layer, torch.Generator().manual_seed(1))
    return blob.double()


def test_constants_and_ranges():
    assert torch.equal(filled('value: 0.5 type: "constant"').unique(), torch.tensor([0.5]).double())
    assert torch.equal(filled("").unique(), torch.zeros(1).double())  # Caffe's default
    drawn = filled('type: "uniform" min: -2 max: 6')
    assert (drawn.min() >= -2, drawn.max() < 6, abs(drawn.mean() - 2) < 0.1) == (True, True, True)


@pytest.mark.parametrize(
    ("variance_norm", "fan"), [("", 30 * 25), ("variance_norm: FAN_OUT", 40 * 25), ("variance_norm: AVERAGE", 35 * 25)]
)
def test_xavier_and_msra_follow_the_number_of_inputs_or_outputs(variance_norm, fan):
    xavier = filled(f'type: "xavier" {variance_norm}')
    assert xavier.abs().max() <= math.sqrt(3 / fan)
    assert xavier.std() == pytest.approx(math.sqrt(1 / fan), rel=0.02)
    msra = filled(f'type: "msra" {variance_norm}')
    assert msra.std() == pytest.approx(math.sqrt(2 / fan), rel=0.02)
    assert msra.abs().max() > 3 * math.sqrt(2 / fan)  # a normal distribution


def test_gaussian():
    drawn = filled('type: "gaussian" mean: 3 std: 0.5')
    assert (drawn.mean().item(), drawn.std().item()) == (pytest.approx(3, abs=0.02), pytest.approx(0.5, rel=0.02))


@pytest.mark.parametrize(
    ("filler", "name"), [('type: "bilinear"', "bilinear"), ('type: "gaussian" sparse: 9', "gaussian")]
)
def test_others_are_refused_by_name(filler, name):
    with pytest.raises(UserError, match=rf"model.prototxt:\d: layer conv: a .*filler of type {name} isn't supported"):
        filled(filler)
