import re

import pytest
import torch

from stylefinetune.caffe.deploy_input import read_deploy
from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models.build import build_model
from tests.deploy import deploy_text

INPUT_LAYER = (
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 75 dim: 60 } } }'
)
FIELDS = (
    'input: "data" input_dim: 10 input_dim: 3 input_dim: 75 input_dim: 60',
    'input: "data" input_shape { dim: 1 dim: 3 dim: 75 dim: 60 }',
)


@pytest.fixture
def read(golden, tmp_path):
    def read_text(**changes):
        path = tmp_path / "deploy.prototxt"
        path.write_text(deploy_text(golden, **changes))
        return read_deploy(path)

    return read_text


@pytest.mark.parametrize("input_", [INPUT_LAYER, *FIELDS])
def test_a_deploy_prototxt_names_the_network_and_its_input(read, input_):
    deploy = read(input_=input_)
    model = deploy.model
    assert (model["display_name"], model["last_layer"], deploy.num_classes) == ("MicroFlickrStyle", "fc8_flickr", 20)
    assert deploy.input_size == (75, 60)
    assert model["widths"] == [8, 16, 24, 24, 16, 32, 32]
    assert deploy.loss == "softmax"


def test_the_end_may_be_a_sigmoid_or_missing(read):
    assert read(end='layer { name: "prob" type: "Sigmoid" bottom: "fc8_flickr" top: "prob" }').loss == "bce"
    assert read(end="").loss == "softmax"


@pytest.mark.parametrize(
    ("input_", "message"),
    [
        ("", "it has no input, so it isn't a deploy prototxt"),
        ('layer { name: "data" type: "Data" top: "data" }', "layer data: a layer of type Data: it has no input"),
        (f"{INPUT_LAYER}\n{FIELDS[0]}", "it has more than one input"),
        (INPUT_LAYER.replace("dim: 3", "dim: 1"), "the shape of its input is 10x1x75x60; it must be Nx3xHEIGHTxWIDTH"),
        ('input: "data"', "the shape of its input is missing"),
    ],
)
def test_another_input_is_an_error(read, input_, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(input_=input_)


def test_a_network_of_another_structure_is_read_with_its_layers(read):
    deploy = read(change=lambda text: text.replace('"relu1" type: "ReLU"', '"relu1" type: "TanH"'))
    assert deploy.num_classes == 20
    model = ModelConfig(**deploy.model)
    net = build_model(model, 20, [deploy.input_size], seed=1)
    assert (model.arch, type(net.relu1)) == ("caffe", torch.nn.Tanh)
    assert net.train()(torch.zeros(2, 3, 75, 75)).shape == (2, 20)  # no loss: both phases are the same


def test_an_unsupported_layer_is_named(read):
    with pytest.raises(UserError, match=r"deploy\.prototxt:\d+: layer relu1: a layer of type Power isn't supported"):
        read(change=lambda text: text.replace('"relu1" type: "ReLU"', '"relu1" type: "Power"'))


def test_a_file_that_is_missing_or_no_prototxt_is_one_line(tmp_path):
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_deploy(tmp_path / "gone.prototxt")
    (tmp_path / "x.prototxt").write_text("hello {")
    with pytest.raises(UserError, match=r"x\.prototxt:1:"):
        read_deploy(tmp_path / "x.prototxt")
