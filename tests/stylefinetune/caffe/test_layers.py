import pytest
from google.protobuf import text_format

from stylefinetune.caffe.layers import Net
from stylefinetune.caffe.prototxt import parse_text
from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError


@pytest.fixture
def read(tmp_path):
    def read(text: str) -> Net:
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        return Net(*parse_text(path, "NetParameter"))

    return read


def names(net, phase, state=""):
    solver_state = text_format.Parse(state, message_class("NetState")())
    return "".join(layer.message.name for layer in net.layers(phase, solver_state))


@pytest.mark.parametrize(
    ("rule", "state", "phases"),
    [
        ("", "", "TRAIN TEST"),
        ("include { phase: TRAIN }", "", "TRAIN"),
        ("include { phase: TRAIN } include { phase: TEST }", "", "TRAIN TEST"),
        ("exclude { phase: TRAIN }", "", "TEST"),
        ("exclude { phase: TRAIN } exclude { phase: TEST }", "", ""),
        ("include { min_level: 1 }", "", ""),
        ("include { min_level: 1 }", "level: 2", "TRAIN TEST"),
        ("include { max_level: 1 }", "level: 2", ""),
        ('include { stage: "a" stage: "b" }', 'stage: "a"', ""),
        ('include { phase: TEST stage: "a" stage: "b" }', 'stage: "b" stage: "a"', "TEST"),
        ('include { not_stage: "a" }', 'stage: "a"', ""),
        ('include { not_stage: "a" }', "", "TRAIN TEST"),
    ],
)
def test_rules_include_layers_as_in_caffe(read, rule, state, phases):
    net = read(f'layer {{ name: "x" {rule} }}')
    assert [phase for phase in ("TRAIN", "TEST") if names(net, phase, state)] == phases.split()


def test_the_state_of_the_net_counts_as_well(read):
    assert names(read('state { stage: "a" } layer { name: "x" include { stage: "a" } }'), "TRAIN") == "x"
    with pytest.raises(UserError, match=r"net.prototxt:\d+: layer x: it has both include and exclude"):
        names(read('layer { name: "x" include { phase: TEST } exclude { phase: TEST } }'), "TRAIN")


def test_layers_in_the_format_v1_are_upgraded(read):
    old = """layers { name: "c" type: CONVOLUTION bottom: "b" top: "t" blobs_lr: 1 blobs_lr: 2
      weight_decay: 1 weight_decay: 0 param: "w" loss_weight: 0 include { phase: TRAIN }
      convolution_param { num_output: 8 } }
    layers { name: "d" type: IMAGE_DATA image_data_param { source: "s" mirror: true crop_size: 5 } }
    layers { name: "r" type: RELU } layers { name: "s" type: SOFTMAX_LOSS } layers { name: "i" type: INNER_PRODUCT }"""
    new = """layer { name: "c" type: "Convolution" bottom: "b" top: "t" param { name: "w" lr_mult: 1 decay_mult: 1 }
      param { lr_mult: 2 decay_mult: 0 } loss_weight: 0 include { phase: TRAIN } convolution_param { num_output: 8 } }
    layer { name: "d" type: "ImageData" transform_param { mirror: true crop_size: 5 } image_data_param { source: "s" } }
    layer { name: "r" type: "ReLU" } layer { name: "s" type: "SoftmaxWithLoss" }
    layer { name: "i" type: "InnerProduct" }"""
    for phase in ("TRAIN", "TEST"):
        upgraded, current = ([one.message for one in read(text).layers(phase, None)] for text in (old, new))
        assert upgraded == current


def test_transformations_of_image_data_param_replace_those_of_transform_param(read):
    images = 'image_data_param { source: "s" scale: 2 mean_file: "m" } transform_param { scale: 3 mirror: true }'
    (layer,) = read(f'layer {{ name: "d" {images} }}').layers("TRAIN", None)
    transform = layer.message.transform_param
    assert (transform.scale, transform.mean_file, transform.mirror) == (2, "m", True)
    assert not layer.message.image_data_param.HasField("scale")


def test_a_net_of_two_formats_or_of_v0_is_an_error(read):
    with pytest.raises(UserError, match=r"net.prototxt:2: the net has both `layer` and `layers`"):
        names(read('layer { name: "x" }\nlayers { name: "y" }'), "TRAIN")
    v0 = 'layers { layer { name: "conv1" type: "conv" num_output: 8 kernelsize: 3 blobs_lr: 1. } bottom: "x" top: "y" }'
    with pytest.raises(UserError, match=r"net.prototxt:1: a layer in the format of 2013 .*upgrade_net_proto_text"):
        names(read(v0), "TRAIN")
