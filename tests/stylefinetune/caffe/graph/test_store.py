import pytest

from stylefinetune.caffe.graph.store import batch_norm_mode, check_phases, graph_rules, read_stored, store_graph
from stylefinetune.caffe.net import read_net
from stylefinetune.errors import UserError
from tests.stylefinetune.models.caffe_graph.published_nets import Net, googlenet, residual


def layers(folder, text, phase):
    (folder / "net.prototxt").write_text(text.replace('input: "data" input: "label"', ""))
    return read_net(folder / "net.prototxt").layers(phase, None)


@pytest.mark.parametrize("text", [googlenet(), residual()], ids=["googlenet", "residual"])
def test_both_phases_are_stored_in_one_prototxt(tmp_path, text):
    phases = [layers(tmp_path, text, phase) for phase in ("TRAIN", "TEST")]
    stored = store_graph("net", *phases, ("data", "label"))
    for phase in ("TRAIN", "TEST"):
        found, expected = (
            [(layer.message.name, list(layer.message.bottom)) for layer in read_stored(one, phase).layers]
            for one in (stored, text)
        )
        assert found == expected
    assert stored.count('name: "conv1') == text.count('name: "conv1')  # shared layers once


def test_layers_of_the_phases_stay_in_order_though_each_has_its_own(tmp_path):
    """The test net has another pooling between two shared layers."""
    net = Net()
    net.conv("conv1", 4, 3)
    net.pool("pool", "MAX", 2, 2)
    net.fc("fc", 5)
    train = net.loss("loss")
    test = train.replace("pool: MAX", "pool: AVE").replace('name: "pool"', 'name: "mean"')
    stored = store_graph("net", layers(tmp_path, train, "TRAIN"), layers(tmp_path, test, "TEST"), ("data", "label"))
    names = {phase: [layer.message.name for layer in read_stored(stored, phase).layers] for phase in ("TRAIN", "TEST")}
    assert names == {"TRAIN": ["conv1", "relu_conv1", "pool", "fc"], "TEST": ["conv1", "relu_conv1", "mean", "fc"]}


def test_the_test_net_has_the_trained_layers():
    train = read_stored(residual(), "TRAIN")
    check_phases(train, read_stored(residual().replace("xavier", "msra").replace("lr_mult: 1", "lr_mult: 5"), "TEST"))
    for old, new, line in (
        ("num_output: 10", "num_output: 11", "layer classifier: it has the weights of the training net's layer"),
        ('name: "res_a"', 'name: "new"', "layer new: the training net has no layer of this name"),
    ):
        with pytest.raises(UserError, match=line):
            check_phases(train, read_stored(residual().replace(old, new), "TEST"))


def test_rules_are_those_of_the_blobs():
    rules = {rule.pop("match"): rule for rule in graph_rules(read_stored(residual(), "TRAIN"))}
    assert list(rules) == ["conv1", "scale_conv1", "res_a", "scale_res_a", "res_b", "scale_res_b", "classifier"]
    assert rules["conv1"] == {"lr_mult": 1.0, "decay_mult": 1.0, "bias_lr_mult": 2.0, "bias_decay_mult": 0.0}
    assert rules["classifier"] == {"lr_mult": 1.0, "decay_mult": 1.0, "bias_lr_mult": 1.0, "bias_decay_mult": 1.0}
    without = residual().replace(
        "num_output: 8 kernel_size: 3 pad: 1 stride: 2", "num_output: 8 kernel_size: 3 bias_term: false"
    )
    with pytest.raises(UserError, match="layer conv1: it has 2 params, but one blob"):
        graph_rules(read_stored(without, "TRAIN"))


def test_batch_norm_has_caffes_mode():
    assert batch_norm_mode(read_stored(residual(), "TRAIN")) == "train"
    fixed = residual().replace('type: "BatchNorm"', 'type: "BatchNorm" batch_norm_param { use_global_stats: true }')
    assert batch_norm_mode(read_stored(fixed, "TRAIN")) == "eval"
    assert batch_norm_mode(read_stored(googlenet(), "TRAIN")) is None


def test_a_damaged_prototxt_is_one_line():
    for text, line in (
        ("layer {", "model.prototxt:1:7"),
        ("layer { }", "it needs `input`"),
        ('input: "a" name: 5', "model"),
    ):
        with pytest.raises(UserError, match=line) as error:
            read_stored(text, "TRAIN")
        assert "\n" not in str(error.value)
