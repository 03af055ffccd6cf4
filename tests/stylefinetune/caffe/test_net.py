import pytest

from stylefinetune.caffe.net import ImageList
from stylefinetune.errors import UserError
from tests.stylefinetune.caffe.nets import NET, convert, replaced


def test_a_net_becomes_the_keys_of_a_config(tmp_path):
    net = convert(tmp_path, NET)
    assert (net.last_layer, net.num_classes) == ("fc8_flickr", 20)
    assert net.train == ImageList("train.txt", "")
    assert net.test == ImageList("test.txt", "")
    assert net.keys["model"] == {
        "display_name": "MicroFlickrStyle",
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


def test_the_data_settings_of_each_phase_are_read(tmp_path):
    train = "mirror: true crop_size: 60 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.017"
    images = 'source: "a b.txt" batch_size: 7 shuffle: true new_height: 64 new_width: 72 root_folder: "pictures/"'
    changed = replaced(
        ('mirror: false mean_file: "mean.binaryproto" }', train + " }"), ('source: "train.txt" batch_size: 10', images)
    )
    net = convert(tmp_path, changed)
    assert net.train == ImageList("a b.txt", "pictures/")
    data = net.keys["data"]
    assert (data["mirror"], data["crop_size"], data["scale"], data["shuffle"]) == (True, 60, 0.017, True)
    assert (data["mean_file"], data["mean_value"]) == ("", [104, 117, 123])
    assert (data["batch_size"], data["image_size"]) == (7, [64, 72])
    assert (data["test"]["scale"], data["test"]["image_size"]) == (1.0, 0)


def test_missing_fields_have_caffes_defaults(tmp_path):
    bare = replaced(
        ('mirror: false mean_file: "mean.binaryproto"', ""), ('source: "train.txt" batch_size: 10', 'source: "x"')
    )
    data = convert(tmp_path, bare).keys["data"]
    assert (data["batch_size"], data["mean_value"], data["scale"], data["shuffle"]) == (1, [0.0], 1.0, False)


def test_a_net_without_a_test_phase_is_only_trained(tmp_path):
    start = NET.index('layer {\n  name: "data"', 10)
    start = NET.index('layer {\n  name: "data"', start + 1)
    end = NET.index('layer {\n  name: "conv1"')
    net = convert(tmp_path, NET[:start] + NET[end:])
    assert net.test is None
    assert net.keys["data"]["test"] == {"split": ""}


def test_training_and_testing_may_have_separate_files(tmp_path):
    test = replaced(("include { phase: TRAIN }", "include { stage: 'no' }"), ("include { phase: TEST }", ""))
    train = replaced(("include { phase: TRAIN }", ""), ("include { phase: TEST }", "include { stage: 'no' }"))
    assert convert(tmp_path, train, test) == convert(tmp_path, NET)
    for old, new, found in (
        ("num_output: 32", "num_output: 34", "fc6: it has the weights of the training net's layer of this name, but"),
        ('name: "fc8_flickr"', 'name: "other"', "other: the training net has no layer of this name"),
    ):
        with pytest.raises(UserError, match=rf"test\.prototxt:\d+: layer {found}"):
            convert(tmp_path, train, replaced((old, new), text=test))


def test_other_nets_need_the_same_blobs_in_both_phases(tmp_path):
    start = NET.index('layer {\n  name: "data"', 10)
    test = NET.index('layer {\n  name: "data"', start + 1)
    text = replaced(("pool: MAX", "pool: AVE"))
    shift = len(text) - len(NET)
    assert shift == 0
    renamed = text[:test] + text[test:].replace('top: "label"', 'top: "classes"', 1).replace(
        'bottom: "label"', 'bottom: "classes"'
    )
    renamed = renamed.replace('bottom: "classes" top: "loss"', 'bottom: "label" top: "loss" include { phase: TRAIN }')
    with pytest.raises(UserError, match="the tops of its data layer must be data and label, as in training"):
        convert(tmp_path, renamed)


def test_a_database_has_the_settings_of_a_list(tmp_path):
    """Also in the format before 2014, with the transformations among its parameters."""
    database = 'type: "Data" data_param { source: "train_lmdb" backend: LMDB batch_size: 7 prefetch: 2 %s }'
    listed = 'image_data_param { source: "train.txt" batch_size: 10 }'
    for inside, transform in (
        ("", "transform_param { mirror: true crop_size: 60 }"),
        ("mirror: true crop_size: 60", ""),
    ):
        start = NET.index('layer {\n  name: "data"')
        text = NET[:start] + NET[start:].replace('type: "ImageData"', database % inside, 1)
        text = text.replace('transform_param { mirror: false mean_file: "mean.binaryproto" }', transform, 1)
        net = convert(tmp_path, text.replace(listed, "", 1))
        assert net.train == ImageList("train_lmdb", "", is_database=True)
        data = net.keys["data"]
        assert (data["batch_size"], data["image_size"], data["shuffle"]) == (7, 0, False)
        assert (data["mirror"], data["crop_size"]) == (True, 60)


def test_blobs_may_have_other_names(tmp_path):
    renamed = NET.replace('top: "data"', 'top: "pictures"').replace('bottom: "data"', 'bottom: "pictures"')
    renamed = renamed.replace('"label"', '"classes"').replace('top: "loss"', 'top: "l"')
    assert convert(tmp_path, renamed) == convert(tmp_path, NET)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"train.txt"', '"train.txt" rand_skip: 5', r"net\.prototxt:9: layer data: image_data_param: rand_skip 5"),
        ('"train.txt"', '"train.txt" is_color: false', "is_color false isn't supported"),
        ('"train.txt"', '"train.txt" new_height: 5', "set both new_height and new_width, or neither"),
        ('source: "train.txt" ', "", "image_data_param: source is missing"),
        ("mirror: false", "mirror: false force_gray: true", "transform_param: force_gray true"),
        ('mean_file: "', 'mean_value: 1 mean_file: "', "mean_file and mean_value are both set"),
        ('top: "label"', "", r"net\.prototxt:5: layer data: it has 1 tops"),
        (
            "include { phase: TRAIN }",
            "include { phase: TEST }",
            "phase TRAIN needs one ImageData or Data layer; it has: none",
        ),
        ("include { phase: TRAIN }", "", "phase TEST needs one ImageData or Data layer; it has: data, data"),
        ('type: "ImageData"', 'type: "Data"', "layer data: data_param: source is missing"),
        (
            'type: "ImageData"',
            'type: "Data" data_param { source: "x_leveldb" batch_size: 5 }',
            r"net\.prototxt:4: layer data: data_param: the backend of x_leveldb is LEVELDB; only LMDB is supported",
        ),
        (
            'type: "ImageData"',
            'type: "Data" data_param { source: "x" backend: LMDB rand_skip: 5 }',
            "layer data: data_param: rand_skip 5 isn't supported",
        ),
        (
            'type: "ImageData"',
            'type: "HDF5Data" hdf5_data_param { source: "x" batch_size: 1 }',
            "a data layer of type HDF5Data isn't supported; use an ImageData layer, whose source is a list",
        ),
        ('type: "ImageData"', 'type: "Python"', "a data layer of type Python isn't supported; use an ImageData layer"),
        ("num_output: 8 ", "num_outputs: 8 ", r"net\.prototxt:\d+:\d+.*num_outputs"),
        ("layer {", "layer ", r"net\.prototxt:\d+"),
        ("batch_size: 10", "batch_size: 0", r"net\.prototxt: data\.batch_size is 0"),
        ('name: "MicroFlickrStyle"', 'input: "data" input_dim: 1', r"net\.prototxt:1: input data isn't supported"),
    ],
)
def test_an_unsupported_setting_is_an_error_that_names_file_line_and_layer(tmp_path, old, new, line):
    with pytest.raises(UserError, match=line) as error:
        convert(tmp_path, replaced((old, new)))
    assert "\n" not in str(error.value)
