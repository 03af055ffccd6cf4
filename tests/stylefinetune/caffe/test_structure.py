import pytest

from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models.build import build_model
from tests.stylefinetune.caffe.nets import NET, convert, replaced

LAST = 'name: "fc8_flickr"'
LOSS = 'type: "SoftmaxWithLoss"'


def test_equal_dropout_ratios_are_read(tmp_path):
    text = NET
    for number in (6, 7):
        relu = f'layer {{ name: "relu{number}"'
        drop = f'layer {{ name: "drop{number}" type: "Dropout" bottom: "fc{number}" top: "fc{number}" '
        end = text.index("}", text.index(relu)) + 1
        text = text[:end] + "\n" + drop + "dropout_param { dropout_ratio: 0.4 } }" + text[end:]
    assert convert(tmp_path, text).keys["model"]["dropout"] == 0.4
    unequal = convert(tmp_path, text.replace("dropout_ratio: 0.4", "dropout_ratio: 0.3", 1))
    assert unequal.keys["model"]["arch"] == "caffe"


@pytest.mark.parametrize(("name", "rule"), [("fc8-mine", "fc8-mine"), ("fc8/v.2 [a]", "fc8/v.2 [[]a]"), ("x*", "x[*]")])
def test_the_last_layer_may_have_any_name(tmp_path, name, rule):
    keys = convert(tmp_path, replaced((LAST, f'name: "{name}"'))).keys
    assert keys["model"]["last_layer"] == name
    assert keys["optim"]["layers"][-1]["match"] == rule


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (LOSS, f"{LOSS} loss_weight: 1"),
        (LOSS, f"{LOSS} propagate_down: true propagate_down: false"),
        (LOSS, f"{LOSS} loss_param {{ normalization: BATCH_SIZE }}"),
        (LOSS, f"{LOSS} loss_param {{ normalize: false ignore_label: -1 }} softmax_param {{ engine: CAFFE }}"),
        (LOSS, f"{LOSS} include {{ phase: TRAIN }} include {{ phase: TEST }}"),
        ("param { lr_mult: 1", 'param { name: "conv1_w" share_mode: PERMISSIVE lr_mult: 1'),
        ("kernel_size: 11 stride: 4", "kernel_h: 11 kernel_w: 11 stride_h: 4 stride_w: 4 pad: 0 dilation: 1"),
        ("kernel_size: 11", "kernel_size: 11 engine: CUDNN force_nd_im2col: true axis: 1"),
        ("kernel_size: 3 stride: 2", "kernel_h: 3 kernel_w: 3 stride: 2 engine: CAFFE"),
        ('name: "conv1"', 'name: "conv1" propagate_down: false lrn_param { local_size: 9 }'),
        ('name: "relu1"', 'name: "any name" loss_weight: 0'),
        ('name: "MicroFlickrStyle"', 'name: "MicroFlickrStyle" force_backward: true debug_info: true'),
        ("mirror: false", "mirror: false force_color: true"),
        ("include { phase: TRAIN }", "exclude { phase: TEST }"),
        ("include { phase: TRAIN }", "include { phase: TRAIN } phase: TRAIN"),
    ],
)
def test_fields_without_effect_are_accepted(tmp_path, old, new):
    assert convert(tmp_path, replaced((old, new))) == convert(tmp_path, NET)


@pytest.mark.parametrize(
    "layer",
    [
        'name: "prob" type: "Softmax" bottom: "fc8_flickr" top: "prob" include { phase: TEST }',
        'name: "top5" type: "Accuracy" bottom: "fc8_flickr" bottom: "label" top: "top5" accuracy_param { top_k: 5 }',
        'name: "no" type: "Silence" bottom: "label"',
    ],
)
def test_layers_without_effect_may_follow(tmp_path, layer):
    assert convert(tmp_path, f"{NET}\nlayer {{ {layer} }}") == convert(tmp_path, NET)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kernel_size: 11 stride: 4", "kernel_size: 7 stride: 4"),
        ("kernel_size: 11", "kernel_h: 11 kernel_w: 9"),
        ("kernel_size: 5 pad: 2 group: 2", "kernel_size: 5 pad: 2"),
        ("num_output: 8 ", "num_output: 8 dilation: 2 "),
        ("pool: MAX", "pool: AVE"),
        ("alpha: 0.0001", "alpha: 0.001"),
        ('name: "relu1" type: "ReLU"', 'name: "relu1" type: "PReLU"'),
        ('name: "conv3"', 'name: "conv3_new"'),
        ('bottom: "pool1" top: "norm1"', 'bottom: "conv1" top: "norm1"'),
        ('type: "gaussian" std: 0.01', 'type: "xavier"'),
        ('type: "constant" value: 0', 'type: "gaussian" std: 1'),
        (LOSS, f"{LOSS} loss_weight: 0.5"),
    ],
)
def test_a_net_of_another_structure_is_kept_as_a_prototxt(tmp_path, old, new):
    net = convert(tmp_path, replaced((old, new)))
    model = net.keys["model"]
    assert model.keys() == {"arch", "display_name", "prototxt"}
    assert (model["arch"], model["display_name"]) == ("caffe", "MicroFlickrStyle")
    assert (net.last_layer, net.num_classes) == ("fc8_flickr", 20)
    assert {"conv1", "fc8_flickr"} <= {rule["match"] for rule in net.keys["optim"]["layers"]}


def test_an_odd_width_does_not_fit_caffenets_groups(tmp_path):
    model = convert(tmp_path, replaced(("num_output: 24", "num_output: 25"))).keys["model"]
    with pytest.raises(UserError, match="layer conv4: 25 channels and 24 outputs aren't multiples of its group"):
        build_model(ModelConfig(**model), 20, [(75, 75)], seed=1)


def test_a_net_without_the_network_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"layer loss: its bottoms are fc8_flickr, label; the scores and label are"):
        convert(tmp_path, NET[: NET.index('layer {\n  name: "conv1"')] + NET[NET.index('layer { name: "loss"') :])
