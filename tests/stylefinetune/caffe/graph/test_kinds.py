import pytest

from stylefinetune.caffe.graph.kinds import KINDS, enum_of, parameters_of, sides
from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.prototxt import parse_content
from stylefinetune.caffe.schema import message_class


def layer(text):
    return Layer(*parse_content(text, "net.prototxt", "LayerParameter"))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("kernel_size: 3", "kernel_size", (3, 3)),
        ("kernel_size: 3 kernel_size: 5", "kernel_size", (3, 5)),
        ("kernel_h: 3 kernel_w: 1", "kernel_size", (3, 1)),
        ("pad_h: 2", "pad", (2, 0)),
        ("", "stride", (1, 1)),
        ("", "pad", (0, 0)),
        ("dilation: 4", "dilation", (4, 4)),
    ],
)
def test_a_size_is_given_once_twice_or_by_direction(text, name, expected):
    assert sides(parameters_of(layer(f'type: "Convolution" convolution_param {{ {text} }}')), name) == expected


def test_enums_have_names():
    assert enum_of(layer('type: "Pooling" pooling_param { pool: AVE }'), "pool") == "AVE"
    assert enum_of(layer('type: "Eltwise"'), "operation") == "SUM"


def test_every_type_has_a_message_of_parameters():
    fields = message_class("LayerParameter").DESCRIPTOR.fields_by_name
    for name, kind in KINDS.items():
        known = fields[kind.parameters].message_type.fields_by_name
        assert set(known.keys()) & kind.free, name
