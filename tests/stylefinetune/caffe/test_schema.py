import pytest
from google.protobuf import text_format
from google.protobuf.unknown_fields import UnknownFieldSet

from stylefinetune.caffe.schema import enum_name, message_class

BINARY = {".caffemodel": "NetParameter", ".solverstate": "SolverState", ".binaryproto": "BlobProto"}


def unknown_fields(message):
    """Return the number of unknown fields in `message` and its nested messages."""
    inner = [
        part
        for field, value in message.ListFields()
        if field.message_type
        for part in (value if field.is_repeated else [value])
    ]
    return len(UnknownFieldSet(message)) + sum(map(unknown_fields, inner))


def test_caffes_binary_files_have_no_unknown_field_and_are_rewritten_byte_identically(golden):
    files = [path for path in sorted(golden.rglob("*")) if path.suffix in BINARY]
    assert {path.suffix for path in files} == set(BINARY)
    for path in files:
        content = path.read_bytes()
        message = message_class(BINARY[path.suffix]).FromString(content)
        assert unknown_fields(message) == 0, path
        assert message.SerializeToString() == content, path


def test_caffes_prototxt_files_are_parsed(golden):
    texts = sorted(golden.rglob("*.prototxt"))
    assert texts
    for path in texts:
        name = "SolverParameter" if "solver" in path.name else "NetParameter"
        text_format.Parse(path.read_text(), message_class(name)())
    net = text_format.Parse((golden / "micro" / "train_val.prototxt").read_text(), message_class("NetParameter")())
    assert [layer.type for layer in net.layer[:6]] == [
        "ImageData",
        "ImageData",
        "Convolution",
        "ReLU",
        "Pooling",
        "LRN",
    ]
    assert enum_name(net.layer[1].include[0], "phase") == "TEST"
    assert net.layer[2].param[1].lr_mult == 2
    assert list(net.layer[2].convolution_param.kernel_size) == [11]
    assert net.layer[2].convolution_param.weight_filler.std == pytest.approx(0.01)


def test_unset_fields_have_caffes_defaults_and_are_known_to_be_unset():
    solver = message_class("SolverParameter")()
    assert (solver.type, solver.regularization_type, solver.test_initialization) == ("SGD", "L2", True)
    assert (solver.random_seed, solver.clip_gradients, solver.average_loss, solver.iter_size) == (-1, -1, 1, 1)
    assert enum_name(solver, "solver_mode") == "GPU"
    assert not solver.HasField("type")
    layer = message_class("LayerParameter")()
    assert (layer.lrn_param.local_size, layer.lrn_param.alpha, layer.lrn_param.k) == (5, 1, 1)
    assert (layer.dropout_param.dropout_ratio, layer.convolution_param.group) == (0.5, 1)
    assert (layer.image_data_param.batch_size, layer.image_data_param.root_folder) == (1, "")
    assert enum_name(layer.pooling_param, "pool") == "MAX"
    assert message_class("ParamSpec")().decay_mult == 1


@pytest.mark.parametrize(
    "text",
    [
        'layer { name: "s" type: "Scale" scale_param { bias_term: true filler { value: 1 } } }',
        'layer { name: "p" type: "Python" python_param { module: "m" layer: "L" param_str: "{}" } }',
        'layer { name: "p" type: "Pooling" pooling_param { pool: AVE global_pooling: true engine: CUDNN } }',
        'layers { name: "c" type: CONVOLUTION blobs_lr: 1 blobs_lr: 2 convolution_param { num_output: 8 } }',
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 227 input_dim: 227 force_backward: true',
    ],
)
def test_unsupported_layers_are_parsed(text):
    assert len(text_format.Parse(text, message_class("NetParameter")()).ListFields()) > 0


def test_parameters_of_unsupported_layers_in_a_binary_file_are_skipped():
    python_param = b"\x92\x08\x02\xff\xff"  # field 130, not a valid message
    layer = message_class("LayerParameter").FromString(b"\x0a\x01p" + python_param)
    assert (layer.name, unknown_fields(layer), len(layer.ListFields())) == ("p", 1, 1)


def test_a_field_that_caffe_does_not_have_is_an_error():
    with pytest.raises(text_format.ParseError, match='no field named "base_lrr"'):
        text_format.Parse("base_lrr: 1", message_class("SolverParameter")())
    with pytest.raises(KeyError):
        message_class("NoSuchParameter")
