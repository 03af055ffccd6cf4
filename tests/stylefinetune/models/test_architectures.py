import fnmatch
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models import architectures
from stylefinetune.models.architectures import build_architecture, check_inputs, classifier_layers
from stylefinetune.models.build import build_model

ARCHITECTURES = torchvision.models.list_models(module=torchvision.models)
CLASSES = 7
# The smallest input of each family, in pixels per side.
SMALLEST = {
    "alexnet": 63,
    "convnext_*": 32,
    "densenet*": 29,
    "googlenet": 15,
    "inception_v3": 75,
    "maxvit_t": 221,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "swin_*": 4,
    "vgg*": 32,
    "vit_?_16": 16,
    "vit_?_32": 32,
    "vit_h_14": 14,
}


def smallest(arch):
    return next((side for pattern, side in SMALLEST.items() if fnmatch.fnmatchcase(arch, pattern)), 1)


@pytest.mark.usefixtures("uninitialized")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_network_of_torchvision_is_built_with_a_classifier_for_the_classes(arch):
    side = smallest(arch)
    net = build_model(ModelConfig(arch=arch), CLASSES, [(side, side)], seed=1)
    (layer,) = classifier_layers(net)
    classifier = net.get_submodule(layer)
    assert isinstance(classifier, (nn.Linear, nn.Conv2d))
    assert classifier.weight.shape[0] == CLASSES
    outputs = {name for name, parameter in net.named_parameters() if parameter.shape[:1] == (CLASSES,)}
    assert outputs <= {f"{layer}.weight", f"{layer}.bias"}
    if side > 1 and not arch.startswith(("vit_h", "vit_l")):  # large, and like vit_b
        with pytest.raises(UserError, match=rf"inputs of {side - 1}x{side - 1} pixels, which {arch} can't have .* set"):
            build_model(ModelConfig(arch=arch), CLASSES, [(side - 1, side - 1)], seed=1)


@pytest.mark.parametrize(
    ("arch", "side"), [("resnet18", 32), ("squeezenet1_1", 32), ("mobilenet_v3_small", 32), ("shufflenet_v2_x0_5", 32)]
)
def test_a_network_computes_scores_of_the_classes(arch, side):
    net = build_model(ModelConfig(arch=arch), CLASSES, [(side, side)], seed=1)
    assert net(torch.rand(2, 3, side, side)).shape == (2, CLASSES)


@pytest.mark.parametrize("arch", ["resnet18", "timm/resnet10t"])
def test_equal_seeds_give_equal_weights_whatever_was_drawn_before(arch):
    def weights(seed):
        return build_architecture(ModelConfig(arch=arch), CLASSES, (32, 32), seed).state_dict()

    before = torch.get_rng_state()
    one = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    same, other = weights(1), weights(2)
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_caffenet_imports_neither_torchvision_nor_timm():
    program = (
        "import sys; from stylefinetune.config.schema import ModelConfig; from stylefinetune.models.build import *; "
        "build_model(ModelConfig(widths=(2, 2, 2, 2, 2, 2, 2)), 7, [(39, 39)], 1); "
        "print([name for name in ('torchvision', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.usefixtures("uninitialized")
@pytest.mark.parametrize(
    ("arch", "side", "suggested"),
    [("vit_b_16", 227, 224), ("maxvit_t", 227, 224), ("inception_v3", 64, 75), ("vgg11", 20, 32)],
)
def test_the_error_of_an_impossible_input_suggests_a_possible_one(arch, side, suggested):
    with pytest.raises(UserError) as error:
        build_model(ModelConfig(arch=arch), CLASSES, [(side, side)], seed=1)
    line = str(error.value)
    assert line.startswith(f"data.crop_size makes inputs of {side}x{side} pixels, which {arch} can't have (")
    assert line.endswith(f"); set it to {suggested}, for example")
    assert "\n" not in line


@pytest.mark.usefixtures("uninitialized")
def test_networks_with_buffers_that_no_checkpoint_has_are_checked_too():
    """The indices of relative positions, in timm's Swin, BEiT, MaxViT and EVA-02."""
    build_model(ModelConfig(arch="timm/swin_tiny_patch4_window7_224"), CLASSES, [(224, 224)], seed=1)


@pytest.mark.usefixtures("uninitialized")
def test_a_network_for_one_input_size_needs_it_in_tests_too():
    model = ModelConfig(arch="vit_b_32")
    build_model(model, CLASSES, [(64, 64), (64, 64)], seed=1)
    with pytest.raises(UserError, match=r"inputs of 96x96 pixels in testing and 64x64 in training .* the same value"):
        build_model(model, CLASSES, [(64, 64), (96, 96)], seed=1)
    with pytest.raises(UserError, match=r"64x32 pixels, which vit_b_32 can't have \(they are not square\)"):
        build_model(model, CLASSES, [(64, 32)], seed=1)


def test_the_input_check_changes_nothing():
    net = build_architecture(ModelConfig(arch="resnet18"), CLASSES, (32, 32), 1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    check_inputs(net, "resnet18", CLASSES, [(32, 32), (40, 48)])
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "line"),
    [
        ("resnet51", "model.arch is 'resnet51', an unknown network (model.display_name is the name in the log); did "),
        ("FlickrStyleCaffeNet", "it may be caffenet, alexnet, convnext_base, "),
        (
            "timm/resnet51q_",
            "model.arch is 'timm/resnet51q_', but timm has no such network; did you mean timm/resnet51q",
        ),
    ],
)
def test_an_unknown_network_is_one_line(arch, line):
    with pytest.raises(UserError) as error:
        build_model(ModelConfig(arch=arch), CLASSES, [(32, 32)], seed=1)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_of_timm_needs_timm(monkeypatch):
    monkeypatch.setattr(architectures.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"timm isn't installed; run: pip install 'stylefinetune\[timm\]'"):
        build_model(ModelConfig(arch="timm/resnet10t"), CLASSES, [(32, 32)], seed=1)


@pytest.mark.usefixtures("uninitialized")
@pytest.mark.parametrize(
    ("arch", "side", "layers"),
    [
        ("timm/resnet10t", 33, ("fc",)),
        ("timm/vit_tiny_patch16_224", 32, ("head",)),
        ("timm/deit_tiny_distilled_patch16_224", 32, ("head", "head_dist")),
    ],
)
def test_a_network_of_timm_is_built_for_the_classes_and_the_input(arch, side, layers):
    net = build_model(ModelConfig(arch=arch), CLASSES, [(side, side)], seed=1)
    assert classifier_layers(net) == layers
    assert {net.get_submodule(layer).out_features for layer in layers} == {CLASSES}


def rates(net, kind, name):
    return [getattr(module, name) for module in net.modules() if type(module).__name__ == kind]


@pytest.mark.usefixtures("uninitialized")
def test_dropout_and_drop_path_are_the_networks_own_unless_they_are_set():
    def build(arch, **settings):
        return build_architecture(ModelConfig(arch=arch, **settings), CLASSES, (32, 32), 1)

    own = rates(build("convnext_tiny"), "StochasticDepth", "p")
    assert max(own) == 0.1
    scaled = rates(build("convnext_tiny", drop_path=0.3), "StochasticDepth", "p")
    assert scaled == pytest.approx([3 * rate for rate in own])
    assert set(rates(build("convnext_tiny", drop_path=0), "StochasticDepth", "p")) == {0}
    assert rates(build("mobilenet_v2"), "Dropout", "p") == [0.2]
    assert rates(build("mobilenet_v2", dropout=0.4), "Dropout", "p") == [0.4]
    build("resnet18", drop_path=0)
    with pytest.raises(UserError, match=r"model\.drop_path is 0\.1, but resnet18 skips no blocks; remove it"):
        build("resnet18", drop_path=0.1)
    with pytest.raises(UserError, match=r"model\.dropout is 0\.1, but resnet18 has no dropout layer; remove it"):
        build("resnet18", dropout=0.1)


@pytest.mark.usefixtures("uninitialized")
def test_networks_of_timm_are_built_with_drop_path_where_they_have_it():
    pytest.importorskip("timm")

    def build(arch, **settings):
        return build_architecture(ModelConfig(arch=f"timm/{arch}", **settings), CLASSES, (32, 32), 1)

    for arch in ("vit_tiny_patch16_224", "resnet18"):
        assert rates(build(arch), "DropPath", "drop_prob") == []
        scaled = [rate for rate in rates(build(arch, drop_path=0.3), "DropPath", "drop_prob") if rate]
        assert max(scaled) == scaled[-1] == pytest.approx(0.3)
        assert scaled == sorted(scaled)
        assert scaled[0] < 0.1
    with pytest.raises(UserError, match=r"model\.drop_path is 0\.1, but timm/vgg11 skips no blocks; remove it"):
        build("vgg11", drop_path=0.1)
