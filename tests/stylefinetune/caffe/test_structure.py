import pytest

from stylefinetune.errors import UserError
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
    with pytest.raises(UserError, match="layers drop6, drop7: only equal dropout"):
        convert(tmp_path, text.replace("dropout_ratio: 0.4", "dropout_ratio: 0.3", 1))


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
    ("old", "new", "line"),
    [
        (
            "kernel_size: 11 stride: 4",
            "kernel_size: 7 stride: 4",
            r"net\.prototxt:27: layer conv1: convolution_param: kernel_size 7.*has 11",
        ),
        ("kernel_size: 11", "kernel_h: 11 kernel_w: 9", "layer conv1: convolution_param: kernel_size"),
        ("kernel_size: 5 pad: 2 group: 2", "kernel_size: 5 pad: 2", "layer conv2: convolution_param: group 1.*has 2"),
        ("num_output: 8 ", "num_output: 8 dilation: 2 ", "layer conv1: convolution_param: dilation 2 isn't supported"),
        ("num_output: 8 ", "num_output: 8 bias_term: false ", "layer conv1: convolution_param: bias_term false"),
        ("num_output: 8 ", "", r"net\.prototxt:27: layer conv1: convolution_param: num_output is missing"),
        ("pool: MAX", "pool: AVE", "layer pool1: pooling_param: pool AVE"),
        ("alpha: 0.0001", "alpha: 0.001", "layer norm1: lrn_param: alpha 0.001"),
        (
            'name: "relu1" type: "ReLU"',
            'name: "relu1" type: "PReLU"',
            r"net\.prototxt:30: layer relu1: expected ReLU after conv1 as in CaffeNet, found this layer of type PReLU",
        ),
        (
            'name: "conv3"',
            'name: "conv3_new"',
            "layer conv3_new: expected Convolution conv3 after norm2 as in CaffeNet",
        ),
        ('bottom: "pool1" top: "norm1"', 'bottom: "conv1" top: "norm1"', "layer norm1: its bottom is conv1"),
        ('type: "gaussian" std: 0.01', 'type: "xavier"', "layer conv1: .*a weight_filler other than gaussian"),
        ('type: "constant" value: 0', 'type: "gaussian" std: 1', "layer conv1: .*a bias_filler other than constant"),
        (
            "param { lr_mult: 1 decay_mult: 1 }\n  param { lr_mult: 2",
            'param { name: "w" lr_mult: 1 decay_mult: 1 }\n  param { name: "w" lr_mult: 2',
            "layer conv1: param: two blobs are called w; shared weights aren't supported",
        ),
        ('name: "conv2"', 'name: "conv2" param {}', "layer conv2: it has 3 params, but two blobs"),
        ('name: "conv2"', 'name: "conv2" propagate_down: false', "layer conv2: propagate_down: false isn't supported"),
        ('name: "conv2"', 'name: "conv2" phase: TEST', "layer conv2: phase isn't supported; use include"),
        ('name: "conv2"', 'name: "conv2" loss_weight: 1', "layer conv2: loss_weight 1 isn't supported; it must be 0"),
        ('name: "conv2"', 'name: "conv2" blobs { num: 1 }', "layer conv2: blobs aren't supported"),
        (LOSS, f"{LOSS} loss_weight: 0.5", "layer loss: loss_weight 0.5 isn't supported; it must be 1"),
        (LOSS, f"{LOSS} propagate_down: false", "layer loss: propagate_down: false isn't supported"),
        (LOSS, f"{LOSS} loss_param {{ normalization: NONE }}", "layer loss: loss_param: normalization: NONE"),
        (LOSS, f"{LOSS} loss_param {{ ignore_label: 3 }}", "loss_param: ignore_label 3 isn't supported.* is a class"),
        (LOSS, 'type: "HingeLoss"', "layer loss: a layer of type HingeLoss isn't supported here"),
        (LOSS, f"{LOSS} include {{ phase: TEST }}", "0 SoftmaxWithLoss layers follow fc8_flickr in training"),
        ('bottom: "fc8_flickr" bottom: "label"', 'bottom: "fc7" bottom: "label"', "its bottoms are fc7, label; only"),
    ],
)
def test_a_difference_from_caffenet_is_an_error_that_names_file_line_and_layer(tmp_path, old, new, line):
    with pytest.raises(UserError, match=line) as error:
        convert(tmp_path, replaced((old, new)))
    assert "\n" not in str(error.value)


def test_an_additional_or_missing_layer_is_an_error(tmp_path):
    extra = 'layer { name: "extra" type: "ReLU" bottom: "fc8_flickr" top: "fc8_flickr" }'
    with pytest.raises(UserError, match="layer extra: a layer of type ReLU isn't supported here"):
        convert(tmp_path, NET + extra)
    second = 'layer { name: "again" type: "SoftmaxWithLoss" bottom: "fc8_flickr" bottom: "label" }'
    with pytest.raises(UserError, match="layer again: 2 SoftmaxWithLoss layers follow fc8_flickr in training"):
        convert(tmp_path, NET + second)
    with pytest.raises(
        UserError, match="expected Convolution conv1 after data as in CaffeNet, found the end of the net"
    ):
        convert(tmp_path, NET[: NET.index('layer {\n  name: "conv1"')])
