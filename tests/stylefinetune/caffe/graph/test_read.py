import pytest

from stylefinetune.caffe.graph.read import Scores, read_graph
from stylefinetune.caffe.net import read_net
from stylefinetune.errors import UserError
from tests.stylefinetune.models.caffe_graph.published_nets import Net, googlenet, residual

CONV = 'layer { name: "res_a" type: "Convolution" bottom: "conv1" top: "res_a"'


def read(folder, text, phase="TRAIN", labels="label"):
    """Read a phase of a net, written to a file without its inputs."""
    (folder / "net.prototxt").write_text(text.replace('input: "data" input: "label"', ""))
    net = read_net(folder / "net.prototxt")
    return read_graph(net.layers(phase, None), "data", labels, phase, net.place)


def test_auxiliary_classifiers_belong_to_training(tmp_path):
    train = read(tmp_path, googlenet())
    assert train.scores == [
        Scores("loss1/classifier", 0.3),
        Scores("loss2/classifier", 0.3),
        Scores("loss3/classifier", 1),
    ]
    assert (train.classifier.message.name, train.num_classes) == ("loss3/classifier", 1000)
    test = read(tmp_path, googlenet(), "TEST")
    assert test.scores == [Scores("loss3/classifier", 1.0)]
    left = {layer.message.name for layer in train.layers} - {layer.message.name for layer in test.layers}
    assert {name.removeprefix("relu_").partition("/")[0] for name in left} == {"loss1", "loss2"}


def test_layers_without_effect_on_the_scores_are_left_out(tmp_path):
    net = Net()
    net.conv("conv1", 4, 3)
    net.conv("unused", 4, 3)
    net.fc("fc", 5, bottom="conv1")
    text = net.loss("loss", 0.5) + 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }'
    graph = read(tmp_path, text + 'layer { name: "no" type: "Silence" bottom: "label" bottom: "prob" }')
    assert [layer.message.name for layer in graph.layers] == ["conv1", "relu_conv1", "fc"]
    assert graph.scores == [Scores("fc", 0.5)]
    assert [layer.message.name for layer in graph.learned] == ["conv1", "fc"]


@pytest.mark.parametrize("end", ["", 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }'])
def test_a_deploy_net_has_the_scores_before_its_softmax(tmp_path, end):
    net = Net()
    net.conv("conv1", 4, 3)
    net.fc("fc", 5)
    graph = read(tmp_path, net.text + end, "TEST", labels=None)
    assert graph.scores == [Scores("fc", 1.0)]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('type: "BatchNorm"', 'type: "MVN"', r"net\.prototxt:3: layer bn_conv1: a layer of type MVN isn't supported"),
        (CONV, CONV.replace("conv1", "conv9"), "layer res_a: its bottom conv9 is no top of an earlier layer"),
        (CONV, f'{CONV} bottom: "conv1"', "layer res_a: it has 2 bottoms; 1 is supported"),
        (CONV, f'{CONV} top: "more"', "layer res_a: it has 2 tops; 1 is supported"),
        (CONV, f"{CONV} loss_weight: 1", "layer res_a: loss_weight 1 isn't supported; it must be 0"),
        (CONV, f"{CONV} propagate_down: false", "layer res_a: propagate_down: false isn't supported"),
        (CONV, f"{CONV} phase: TEST", "layer res_a: phase isn't supported; use include"),
        (CONV, f"{CONV} blobs {{ num: 1 }}", "layer res_a: blobs aren't supported"),
        ('bottom: "conv1" top: "res_a"', 'bottom: "conv1" top: "data"', "layer res_a: its top data is also that of"),
        ('name: "res_b"', 'name: "res_a"', "layer res_a: another layer has the same name"),
        ("num_output: 8", "num_output: 0", "layer conv1: convolution_param: num_output is missing"),
        ("num_output: 8", "num_output: 8 axis: 2", "layer conv1: convolution_param: axis 2 isn't supported"),
        (
            "bias_term: true",
            "bias_term: true num_axes: 2",
            "layer scale_conv1: scale_param: num_axes 2 isn't supported",
        ),
        (
            'type: "BatchNorm"',
            'type: "BatchNorm" param { lr_mult: 1 }',
            "its statistics aren't learned: set lr_mult: 0",
        ),
        ('type: "BatchNorm"', 'type: "BatchNorm"' + " param { lr_mult: 0 }" * 4, "its statistics aren't learned"),
        (
            "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2",
            'param { name: "w" } param { name: "w" lr_mult: 2',
            "layer conv1: param: two blobs are called w; shared weights aren't supported",
        ),
        ("loss_weight: 1", "loss_weight: 0", "no SoftmaxWithLoss layer with a loss_weight other than 0"),
        ("loss_weight: 1", "loss_weight: 1 propagate_down: false", "layer loss: propagate_down: false isn't supported"),
        ("loss_weight: 1", "loss_param { normalization: NONE }", "layer loss: loss_param: normalization: NONE"),
        ("loss_weight: 1", "loss_param { ignore_label: 3 }", "loss_param: ignore_label 3 isn't supported.* is a class"),
        ('"SoftmaxWithLoss"', '"HingeLoss"', "layer loss: a layer of type HingeLoss isn't supported"),
        (
            'bottom: "classifier" bottom: "label"',
            'bottom: "label" bottom: "classifier"',
            "its bottoms are label, class",
        ),
        ('bottom: "classifier" bottom: "label"', 'bottom: "classifier"', "the scores and label are needed"),
    ],
)
def test_what_is_unsupported_is_an_error_that_names_file_line_and_layer(tmp_path, old, new, line):
    text = residual()
    assert old in text
    with pytest.raises(UserError, match=line) as error:
        read(tmp_path, text.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_statistics_of_the_batch_in_testing_are_refused(tmp_path):
    text = residual().replace('type: "BatchNorm"', 'type: "BatchNorm" batch_norm_param { use_global_stats: false }')
    assert read(tmp_path, text).learned
    with pytest.raises(
        UserError, match="layer bn_conv1: batch_norm_param: use_global_stats: false isn't supported in t"
    ):
        read(tmp_path, text, "TEST")


def test_scores_that_a_loss_has_read_do_not_change_afterwards(tmp_path):
    extra = 'layer { name: "late" type: "ReLU" bottom: "classifier" top: "classifier" }'
    with pytest.raises(UserError, match="layer late: it changes classifier in place after loss has read it"):
        read(tmp_path, residual() + extra)


def test_a_net_without_layers_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no layers"):
        read(tmp_path, "", labels=None)
    pooled = 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 3 } }'
    with pytest.raises(UserError, match="no Convolution or InnerProduct layer is between the pictures and the scores"):
        read(tmp_path, pooled, labels=None)
