import pytest
import torch

from stylefinetune.errors import UserError
from stylefinetune.models.caffe_graph.network import CaffeGraph
from tests.stylefinetune.models.caffe_graph import published_nets
from tests.stylefinetune.models.caffe_graph.published_nets import INPUTS, Net


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [  # parameters of the published .caffemodel files
        ("alexnet", 227, 60_965_224),
        ("googlenet", 224, 13_378_280),
        ("nin", 224, 7_595_176),
        ("squeezenet", 227, 1_235_496),
    ],
)
def test_published_nets_have_the_parameters_of_their_authors(name, side, expected):
    net = CaffeGraph(getattr(published_nets, name)(), 1000, (side, side), seed=1)
    assert parameters(net) == expected
    heads = 3 if name == "googlenet" else 1
    with torch.no_grad():
        pictures = torch.randn(2, 3, side, side)
        assert net.eval()(pictures).shape == (2, 1000)
        assert net.train()(pictures).shape == ((2, 3, 1000) if heads == 3 else (2, 1000))
    assert net.loss_weights == ((0.3, 0.3, 1.0) if heads == 3 else (1.0,))


def test_vgg16_computes_what_torchvisions_layers_do():
    from torchvision.models.vgg import make_layers

    widths = [
        width for width, layers in ((4, 2), (8, 2), (16, 3), (32, 3), (32, 3)) for width in [width] * layers + ["M"]
    ]
    relu = torch.nn.ReLU()
    linear = [torch.nn.Linear(*sizes) for sizes in ((32 * 2 * 2, 16), (16, 16), (16, 7))]
    theirs = torch.nn.Sequential(make_layers(widths), torch.nn.Flatten(), linear[0], relu, linear[1], relu, linear[2])
    ours = CaffeGraph(published_nets.vgg16(7, width=4, hidden=16), 7, (64, 64), seed=1).eval()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
        pictures = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(ours(pictures), theirs(pictures))


def test_squeezenet_computes_what_torchvisions_does():
    """The same weights in both, layer by layer; torchvision's pooling rounds up too."""
    from torchvision.models import squeezenet1_1

    theirs, ours = squeezenet1_1(num_classes=9).eval(), CaffeGraph(published_nets.squeezenet(9), 9, (97, 97), 1).eval()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
        pictures = torch.randn(2, 3, 97, 97)
        torch.testing.assert_close(ours(pictures), theirs(pictures), rtol=1e-5, atol=1e-6)


def test_a_residual_net_uses_the_batch_in_training_and_its_statistics_in_testing():
    net, pictures = CaffeGraph(published_nets.residual(), 10, (16, 16), seed=1), torch.randn(4, 3, 16, 16)
    trained = net(pictures)
    tested = net.eval()(pictures)
    assert not torch.allclose(trained, tested)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(pictures)
    assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())
    assert {name.rpartition(".")[2] for name in before} == {"running_mean", "running_var", "scale_factor"}


def test_equal_seeds_give_equal_weights():
    nets = [CaffeGraph(published_nets.residual(), 10, (16, 16), seed) for seed in (1, 1, 2)]
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_blob_in_place_replaces_the_one_before_it_for_later_layers_only():
    net = Net()
    net.conv("conv", 4, 1, relu=False)
    net.pool("before", "MAX", 1, 1)
    net.top = "conv"
    net.relu("conv")
    net.add("Eltwise", "sum", bottoms=["conv", "before"])
    net.global_pool("pool")
    built = CaffeGraph(net.loss("loss"), 4, (3, 3), seed=1).eval()
    pictures = torch.randn(2, 3, 3, 3)
    raw = built.conv(pictures)
    torch.testing.assert_close(built(pictures), (raw + raw.relu()).mean((2, 3)))


def test_layers_of_one_phase_only():
    text = published_nets.residual()
    settings = "pooling_param { pool: AVE global_pooling: true }"
    pooled = f'layer {{ name: "pool" type: "Pooling" bottom: "res" top: "pool" {settings} }}'
    assert pooled in text
    phases = "".join(
        pooled.replace("} }", f"}} include {{ phase: {phase} }} }}").replace("AVE", method)
        for phase, method in (("TRAIN", "AVE"), ("TEST", "MAX"))
    )
    net = CaffeGraph(text.replace(pooled, phases), 10, (16, 16), seed=1)
    assert {name for name, _ in net.named_children()} >= {"pool", "pool%test"}
    assert not torch.allclose(
        net.eval()(torch.ones(1, 3, 16, 16)), CaffeGraph(text, 10, (16, 16), 1).eval()(torch.ones(1, 3, 16, 16))
    )


def test_a_loss_weight_of_one_classifier_is_kept():
    text = published_nets.residual().replace("loss_weight: 1", "loss_weight: 0.5")
    net = CaffeGraph(text, 10, (16, 16), seed=1)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 1, 10)
    assert net.loss_weights == (0.5,)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("num_output: 10", "num_output: 11", "classifier has 11 outputs, and there are 10 classes; set num_output"),
        ("kernel_size: 3 pad: 1 stride: 2", "kernel_size: 33", "layer conv1: it can't have an input of 3x16x16"),
        ('bottom: "conv1" bottom: "res_b"', 'bottom: "data" bottom: "res_b"', "layer res: its bottoms are 3x16x16 and"),
        ('name: "conv1"', 'name: "loss_weights"', "layer loss_weights: the name is used by the program; rename the"),
    ],
)
def test_what_does_not_fit_is_named(old, new, line):
    text = published_nets.residual()
    assert old in text
    with pytest.raises(UserError, match=line):
        CaffeGraph(text.replace(old, new, 1), 10, (16, 16), seed=1)


def test_a_layer_may_have_the_name_of_an_attribute_of_a_module():
    text = published_nets.residual().replace('name: "conv1"', 'name: "forward"')
    assert CaffeGraph(text, 10, (16, 16), seed=1)(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_a_stored_net_without_inputs_is_refused():
    with pytest.raises(UserError, match=r"model\.prototxt: it needs `input` with the name of the pictures' blob"):
        CaffeGraph(published_nets.residual().removeprefix(INPUTS), 10, (16, 16), seed=1)


def test_a_blob_is_that_of_the_last_layer_that_changes_it_in_place():
    net = CaffeGraph(published_nets.alexnet(), 1000, (227, 227), seed=1)
    assert {blob: net.blob_modules()[blob] for blob in ("conv1", "fc7", "fc8")} == {
        "conv1": "relu_conv1",
        "fc7": "drop7",
        "fc8": "fc8",
    }
