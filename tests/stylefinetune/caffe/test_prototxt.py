import pytest

from stylefinetune.caffe.prototxt import ImageList, parse_text, read_net
from stylefinetune.errors import UserError


@pytest.fixture(scope="module")
def text(golden):
    return (golden / "micro" / "train_val.prototxt").read_text()


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        return read_net(path)

    return read


def test_a_net_becomes_the_keys_of_a_config(text, read):
    net = read(text)
    assert net.num_classes == 20
    assert net.train == ImageList("train.txt", "")
    assert net.test == ImageList("test.txt", "")
    assert net.keys["model"] == {
        "name": "MicroFlickrStyle",
        "last_layer": "fc8_flickr",
        "widths": [8, 16, 24, 24, 16, 32, 32],
        "weight_filler_std": [0.01, 0.05, 0.1, 0.1, 0.1, 0.1, 0.15, 0.01],
        "bias_filler_value": [0, 1, 0, 1, 1, 1, 1, 0],
        "dropout": 0.0,
    }
    rules = {rule["match"]: tuple(rule.values())[1:] for rule in net.keys["optim"]["layers"]}
    assert rules["conv1"] == (1.0, 1.0, 2.0, 0.0)
    assert rules["fc8_flickr"] == (10.0, 1.0, 20.0, 0.0)
    data = net.keys["data"]
    assert (data["batch_size"], data["image_size"], data["crop_size"], data["mirror"]) == (10, 0, 0, False)
    assert (data["mean_file"], data["mean_value"]) == ("mean.binaryproto", [])
    assert (data["test"]["crop_size"], data["test"]["split"]) == (75, "test")


def test_the_data_settings_of_each_phase_are_read(text, read):
    train = "mirror: true crop_size: 60 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.017"
    images = 'source: "a b.txt" batch_size: 7 shuffle: true new_height: 64 new_width: 72 root_folder: "pictures/"'
    changed = text.replace('mirror: false mean_file: "mean.binaryproto" }', train + " }", 1)
    changed = changed.replace('source: "train.txt" batch_size: 10', images, 1)
    net = read(changed)
    assert net.train == ImageList("a b.txt", "pictures/")
    data = net.keys["data"]
    assert (data["mirror"], data["crop_size"], data["scale"], data["shuffle"]) == (True, 60, 0.017, True)
    assert (data["mean_file"], data["mean_value"]) == ("", [104, 117, 123])
    assert (data["batch_size"], data["image_size"]) == (7, [64, 72])
    assert (data["test"]["scale"], data["test"]["image_size"]) == (1.0, 0)


def test_without_a_mean_nothing_is_subtracted(text, read):
    assert read(text.replace('mean_file: "mean.binaryproto"', "", 1)).keys["data"]["mean_value"] == [0.0]


def test_equal_dropout_ratios_are_read(text, read):
    for number in (6, 7):
        relu = f'layer {{ name: "relu{number}"'
        drop = f'layer {{ name: "drop{number}" type: "Dropout" bottom: "fc{number}" top: "fc{number}" '
        end = text.index("}", text.index(relu)) + 1
        text = text[:end] + "\n" + drop + "dropout_param { dropout_ratio: 0.4 } }" + text[end:]
    assert read(text).keys["model"]["dropout"] == 0.4
    with pytest.raises(UserError, match="layers drop6, drop7: only equal dropout"):
        read(text.replace("dropout_ratio: 0.4", "dropout_ratio: 0.3", 1))


def test_a_net_without_a_test_phase_is_only_trained(text, read):
    start = text.index('layer {\n  name: "data"', 10)
    start = text.index('layer {\n  name: "data"', start + 1)
    end = text.index('layer {\n  name: "conv1"')
    net = read(text[:start] + text[end:])
    assert net.test is None
    assert net.keys["data"]["test"] == {"split": ""}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "kernel_size: 11 stride: 4",
            "kernel_size: 7 stride: 4",
            "layer conv1: convolution_param: kernel_size 7.*has 11",
        ),
        ("kernel_size: 5 pad: 2 group: 2", "kernel_size: 5 pad: 2", "layer conv2: convolution_param: group 1.*has 2"),
        ("num_output: 8 ", "num_output: 8 dilation: 2 ", "layer conv1: convolution_param: dilation 2 isn't supported"),
        ("num_output: 8 ", "num_output: 8 bias_term: false ", "layer conv1: convolution_param: bias_term False"),
        ("pool: MAX", "pool: AVE", "layer pool1: pooling_param: pool 1"),
        ("alpha: 0.0001", "alpha: 0.001", "layer norm1: lrn_param: alpha 0.001"),
        (
            'name: "relu1" type: "ReLU"',
            'name: "relu1" type: "PReLU"',
            r"expected ReLU after conv1 as in CaffeNet, found layer relu1",
        ),
        (
            'name: "conv3"',
            'name: "conv3_new"',
            r"expected Convolution conv3 after norm2 as in CaffeNet, found layer conv3_new",
        ),
        ('bottom: "pool1" top: "norm1"', 'bottom: "conv1" top: "norm1"', "layer norm1: its bottom is conv1"),
        ('type: "gaussian" std: 0.01', 'type: "xavier"', "layer conv1: a weight_filler other than gaussian"),
        ('type: "constant" value: 0', 'type: "gaussian" std: 1', "layer conv1: a bias_filler other than constant"),
        ("param { lr_mult: 1", 'param { name: "shared" lr_mult: 1', "layer conv1: param: name shared"),
        ("include { phase: TEST }", 'include { phase: TEST stage: "x" }', "layer data: include.stage isn't supported"),
        ("include { phase: TRAIN }", "exclude { phase: TEST }", "layer data: exclude isn't supported"),
        (
            'source: "train.txt"',
            'source: "train.txt" rand_skip: 5',
            r"layer data \(TRAIN\): image_data_param: rand_skip 5",
        ),
        ('source: "train.txt"', 'source: "train.txt" is_color: false', "is_color False"),
        ('source: "train.txt"', 'source: "train.txt" new_height: 5', "set both new_height and new_width, or neither"),
        ('source: "train.txt" ', "", "image_data_param has no source"),
        ("mirror: false", "mirror: false force_gray: true", "transform_param: force_gray True"),
        ('type: "ImageData"', 'type: "Data"', r"phase TRAIN needs one ImageData layer.*data \(Data\)"),
        ('type: "SoftmaxWithLoss"', 'type: "HingeLoss"', "layer loss: a layer of type HingeLoss isn't supported"),
        ('name: "MicroFlickrStyle"', 'name: "x" layers { name: "old" type: CONVOLUTION }', "layers name:"),
        ("num_output: 8 ", "num_outputs: 8 ", r"net.prototxt:\d+:\d+.*num_outputs"),
        ("layer {", "layer ", r"net.prototxt:\d+"),
    ],
)
def test_a_difference_from_caffenet_is_an_error_that_names_the_layer(text, read, old, new, line):
    assert old in text
    with pytest.raises(UserError, match=line) as error:
        read(text.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_an_additional_or_missing_layer_is_an_error(text, read):
    extra = 'layer { name: "extra" type: "ReLU" bottom: "fc8_flickr" top: "fc8_flickr" }'
    with pytest.raises(UserError, match="layer extra: a layer of type ReLU isn't supported here"):
        read(text + extra)
    with pytest.raises(
        UserError, match="expected Convolution conv1 after data as in CaffeNet, found the end of the net"
    ):
        read(text[: text.index('layer {\n  name: "conv1"')])


def test_an_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.prototxt can't be read: No such file"):
        parse_text(tmp_path / "none.prototxt", "SolverParameter")
    binary = tmp_path / "binary.prototxt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.prototxt:"):
        parse_text(binary, "SolverParameter")
