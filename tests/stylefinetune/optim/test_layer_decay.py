import pytest
import torchvision

from stylefinetune.config.schema import ModelConfig
from stylefinetune.models.architectures import classifier_layers
from stylefinetune.models.build import build_model
from stylefinetune.optim.layer_decay import block_numbers, layer_decays
from tests.stylefinetune.models.test_architectures import smallest

ARCHITECTURES = torchvision.models.list_models(module=torchvision.models)
# The number of blocks of a network of each family, and the first and the last before the classifier.
BLOCKS = {
    "alexnet": (8, "features.0", "classifier.4"),
    "convnext_tiny": (23, "features.0", "features.7.2"),
    "densenet121": (63, "features.conv0", "features.denseblock4.denselayer16"),
    "efficientnet_b0": (19, "features.0", "features.8"),
    "googlenet": (13, "conv1", "inception5b"),
    "inception_v3": (17, "Conv2d_1a_3x3", "Mixed_7c"),
    "maxvit_t": (15, "stem.0", "classifier.3"),
    "mnasnet0_5": (21, "layers.0", "layers.14"),
    "mobilenet_v2": (20, "features.0", "features.18"),
    "mobilenet_v3_small": (15, "features.0", "classifier.0"),
    "regnet_y_400mf": (18, "stem", "trunk_output.block4.block4-5"),
    "resnet18": (10, "conv1", "layer4.1"),
    "shufflenet_v2_x0_5": (19, "conv1", "conv5"),
    "squeezenet1_0": (10, "features.0", "features.12"),
    "swin_t": (17, "features.0", "features.7.1"),
    "vgg11_bn": (11, "features.0", "classifier.3"),
    "vit_b_16": (14, "conv_proj", "encoder.layers.encoder_layer_11"),
}


def build(arch):
    side = 64 if arch.startswith("timm/") else smallest(arch)
    return build_model(ModelConfig(arch=arch), 5, [(side, side)], seed=1)


@pytest.mark.usefixtures("uninitialized")
@pytest.mark.parametrize(
    "arch", [name if name in BLOCKS else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_rates_rise_from_the_stem_to_the_classifier_of_each_network_of_torchvision(arch):
    net = build(arch)
    rates = layer_decays(net, 0.75)
    assert rates.keys() == dict(net.named_parameters()).keys()
    (classifier,) = classifier_layers(net)
    assert {name for name, rate in rates.items() if rate == 1} == {
        name for name in rates if name.startswith(f"{classifier}.")
    }
    assert list(rates.values()) == sorted(rates.values()), "not in the order of the layers"
    numbers = block_numbers(net)
    assert min(rates.values()) == rates[next(iter(rates))] == 0.75 ** max(numbers.values())
    assert set(numbers.values()) == set(range(max(numbers.values()) + 1))
    if arch in BLOCKS:
        count, first, last = BLOCKS[arch]
        assert max(numbers.values()) + 1 == count
        assert {number for name, number in numbers.items() if name.startswith(f"{first}.")} == {0}
        assert {number for name, number in numbers.items() if name.startswith(f"{last}.")} == {count - 2}


def test_parameters_outside_layers_belong_to_the_stem():
    numbers = block_numbers(build("vit_b_16"))
    assert numbers["class_token"] == numbers["encoder.pos_embedding"] == 0


def test_caffenets_blocks_are_its_layers():
    numbers = block_numbers(build_model(ModelConfig(widths=(8,) * 7), 5, [(67, 67)], seed=1))
    assert [numbers[f"{layer}.bias"] for layer in ("conv1", "conv5", "fc6", "fc7", "fc8_flickr")] == [0, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("arch", "lowest", "block"),
    [("timm/resnet10t", "conv1.0.weight", "layer1"), ("timm/test_vit", "cls_token", "blocks.0")],
)
def test_the_blocks_of_timms_networks_are_timms(arch, lowest, block):
    pytest.importorskip("timm")
    net = build(arch)
    rates = layer_decays(net, 0.5)
    (classifier,) = classifier_layers(net)
    assert rates[f"{classifier}.weight"] == 1
    assert rates[lowest] == min(rates.values()) < min(r for name, r in rates.items() if name.startswith(block)) < 1
