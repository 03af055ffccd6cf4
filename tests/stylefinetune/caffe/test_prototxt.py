import codecs
import os

import pytest

from stylefinetune.caffe.prototxt import check_defaults, parse_text, round_float32
from stylefinetune.errors import UserError

NET = """# a comment with { and "
name: 'Small' # another
layer { name: "data"
  type: "ImageData" }
layer {
  name: "conv1"
  include { phase: TRAIN } include { phase: TEST
    stage: "x" }
  convolution_param <
    pad: [1, 2] kernel_size: 3
    stride: 1e0
  >
  top: "a:b{" top: "c"
}
"""


def test_the_line_of_a_field_is_found(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET.replace("1e0", "1"))
    net, place = parse_text(path, "NetParameter")
    assert net.layer[1].name == "conv1"
    conv = place.at("layer", 1, label="layer conv1")
    for found, line in (
        (place.error("x", "name"), 2),
        (place.error("x", "layer"), 3),
        (place.at("layer", 0, "").error("x", "type"), 4),
        (conv.error("x"), 5),
        (conv.at("include", 0).error("x", "phase"), 7),
        (conv.at("include", 1).error("x", "stage"), 8),
        (conv.at("convolution_param").error("x", "pad"), 10),
        (conv.at("convolution_param").error("x", "kernel_size"), 10),
        (conv.at("convolution_param").error("x", "stride"), 11),
        (conv.at("convolution_param").error("x", "missing"), 9),
        (conv.error("x", "top", 1), 13),
    ):
        assert str(found).startswith(f"{path}:{line}: ")
    assert str(conv.at("include").error("wrong")).endswith(": layer conv1: include: wrong")
    assert str(place.error("wrong", "nothing")) == f"{path}: wrong"


@pytest.mark.parametrize(
    "body",
    [
        codecs.BOM_UTF8 + b'net: "a"',
        'net: "a"'.encode("utf-16"),
        b'net: "a"\r\n',
        '# 训练\nnet: "a"'.encode("gbk"),
        '# entraîné\nnet: "a"'.encode("latin-1"),
    ],
)
def test_a_file_of_any_encoding_is_parsed(tmp_path, body):
    path = tmp_path / "solver.prototxt"
    path.write_bytes(body)
    assert parse_text(path, "SolverParameter")[0].net == "a"


def test_a_net_is_found_by_the_bytes_of_its_name(tmp_path):
    (tmp_path / os.fsdecode("网络.prototxt".encode("gbk"))).write_text('name: "x"')
    assert parse_text(tmp_path / "网络.prototxt", "NetParameter")[0].name == "x"


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.prototxt can't be read: No such file"):
        parse_text(tmp_path / "none.prototxt", "SolverParameter")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        parse_text(tmp_path, "SolverParameter")
    binary = tmp_path / "binary.prototxt"
    for body in (b"\xff\xfe\x00", bytes(range(256))):
        binary.write_bytes(body)
        with pytest.raises(UserError, match=r"binary\.prototxt:1:1"):
            parse_text(binary, "SolverParameter")


def test_a_field_that_differs_from_caffes_default_is_named(tmp_path):
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "a"\nsolver_type: ADAM\nsnapshot_diff: true\n')
    solver, place = parse_text(path, "SolverParameter")
    with pytest.raises(UserError, match=r"solver\.prototxt:2: solver_type ADAM isn't supported"):
        check_defaults(solver, place, free={"net", "snapshot_diff"})
    with pytest.raises(UserError, match=r"solver\.prototxt:3: snapshot_diff true isn't supported"):
        check_defaults(solver, place, free={"net", "solver_type"})
    check_defaults(solver, place, free={"net", "solver_type", "snapshot_diff"})


def test_numbers_are_those_of_the_file():
    assert round_float32(0.10000000149011612) == 0.1
