"""The module of each type of layer, from its prototxt, against Caffe's formulas in float64."""

import numpy as np
import pytest
import torch

from stylefinetune.caffe.graph.store import read_stored
from stylefinetune.errors import UserError
from stylefinetune.models.caffe_graph.layers import build_layer
from tests.stylefinetune.models.caffe_graph import caffe_formulas

LAYER = 'input: "data"\nlayer { name: "it" type: "%s" bottom: "data" top: "it" %s }\n'
AFTER = 'layer { name: "fc" type: "InnerProduct" bottom: "it" top: "fc" inner_product_param { num_output: 2 } }'


def build(kind, parameters, shape):
    """Return the module of a layer with these parameters, for an input of one shape, in float64 for testing."""
    layer = read_stored(LAYER % (kind, parameters) + AFTER, "TEST").layers[0]
    return build_layer(layer, [shape], torch.Generator().manual_seed(2)).double().eval()


def draw(*shape):
    return np.random.default_rng(5).normal(size=shape)


def close(module, x, expected):
    found = module(torch.tensor(x)).detach().numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "settings"),
    [
        ("kernel_size: 3", {}),
        ("kernel_size: 3 stride: 2 pad: 1 group: 2", {"stride": (2, 2), "pad": (1, 1), "group": 2}),
        ("kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0", {"stride": (2, 1), "pad": (1, 0)}),
        ("kernel_size: 3 kernel_size: 2 stride: 1 stride: 3", {"stride": (1, 3)}),
        ("kernel_size: 3 dilation: 2 pad: 2 bias_term: false", {"dilation": (2, 2), "pad": (2, 2)}),
    ],
)
def test_convolution(parameters, settings):
    fillers = 'weight_filler { type: "msra" } bias_filler { type: "constant" value: 0.3 }'
    module = build("Convolution", f"convolution_param {{ num_output: 4 {parameters} {fillers} }}", (4, 9, 8))
    bias = None if module.bias is None else module.bias.detach().numpy()
    x = draw(2, 4, 9, 8)
    close(module, x, caffe_formulas.convolution(x, module.weight.detach().numpy(), bias, **settings))
    assert (bias is None) == ("bias_term" in parameters)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("parameters", "kernel", "stride", "pad", "round_up"),
    [
        ("kernel_size: 3 stride: 2", (3, 3), (2, 2), (0, 0), True),
        ("kernel_size: 3 stride: 2 round_mode: FLOOR", (3, 3), (2, 2), (0, 0), False),
        ("kernel_size: 3 stride: 2 pad: 1", (3, 3), (2, 2), (1, 1), True),
        ("kernel_size: 2 stride: 2 pad: 1", (2, 2), (2, 2), (1, 1), True),
        ("kernel_size: 3 stride: 1 pad: 1", (3, 3), (1, 1), (1, 1), True),
        ("kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0", (3, 2), (2, 1), (1, 0), True),
    ],
)
def test_pooling_rounds_up_and_clips_its_windows(method, parameters, kernel, stride, pad, round_up):
    for height, width in ((6, 7), (8, 9)):
        x = draw(2, 3, height, width)
        module = build("Pooling", f"pooling_param {{ pool: {method} {parameters} }}", (3, height, width))
        close(module, x, caffe_formulas.pooling(x, method, kernel, stride, pad, round_up))


def test_global_pooling():
    x = draw(2, 3, 5, 4)
    for method, expected in (("MAX", x.max((2, 3), keepdims=True)), ("AVE", x.mean((2, 3), keepdims=True))):
        close(build("Pooling", f"pooling_param {{ pool: {method} global_pooling: true }}", (3, 5, 4)), x, expected)


def test_local_response_norm_across_and_within_channels():
    x = 3 * draw(2, 6, 5, 4)
    module = build("LRN", "lrn_param { local_size: 3 alpha: 0.2 beta: 0.6 k: 2 }", (6, 5, 4))
    close(module, x, caffe_formulas.lrn_across(x, 3, 0.2, 0.6, 2))
    module = build("LRN", "lrn_param { local_size: 3 alpha: 0.2 beta: 0.6 norm_region: WITHIN_CHANNEL }", (6, 5, 4))
    close(module, x, caffe_formulas.lrn_within(x, 3, 0.2, 0.6))


def test_activations():
    x = draw(2, 3, 4, 4)
    shape = (3, 4, 4)
    close(build("ReLU", "", shape), x, np.maximum(x, 0))
    close(build("ReLU", "relu_param { negative_slope: 0.2 }", shape), x, np.maximum(x, 0) + 0.2 * np.minimum(x, 0))
    close(build("Sigmoid", "", shape), x, 1 / (1 + np.exp(-x)))
    close(build("TanH", "", shape), x, np.tanh(x))
    close(build("PReLU", "", shape), x, np.maximum(x, 0) + 0.25 * np.minimum(x, 0))
    shared = build("PReLU", 'prelu_param { channel_shared: true filler { type: "constant" value: 0.5 } }', shape)
    close(shared, x, np.maximum(x, 0) + 0.5 * np.minimum(x, 0))
    assert (build("PReLU", "", shape).weight.numel(), shared.weight.numel()) == (3, 1)
    exponentials = np.exp(x - x.max(1, keepdims=True))
    close(build("Softmax", "", shape), x, exponentials / exponentials.sum(1, keepdims=True))


def test_dropout_scales_what_it_keeps():
    module = build("Dropout", "dropout_param { dropout_ratio: 0.25 }", (4000,)).train()
    found = module(torch.ones(1, 4000).double())
    assert found.unique().tolist() == [0, pytest.approx(1 / 0.75)]
    assert (found == 0).double().mean() == pytest.approx(0.25, abs=0.03)


def test_normalization_scale_and_shapes():
    x = draw(2, 3, 4, 4)
    module = build("BatchNorm", "batch_norm_param { eps: 0.001 moving_average_fraction: 0.5 }", (3, 4, 4))
    caffes = caffe_formulas.BatchNorm(3, 0.001, 0.5)
    close(module.train(), x, caffes.train(x))
    close(module.eval(), x, caffes.test(x))
    assert not build("BatchNorm", "batch_norm_param { use_global_stats: true }", (3, 4, 4)).train().training
    close(build("Scale", "", (3, 4, 4)), x, x)  # Caffe's default weight is 1
    filled = "scale_param { filler { value: 2 } bias_term: true bias_filler { value: 0.5 } }"
    close(build("Scale", filled, (3, 4, 4)), x, 2 * x + 0.5)
    close(build("Flatten", "", (3, 4, 4)), x, x.reshape(2, 48))
    close(build("Flatten", "flatten_param { axis: 2 }", (3, 4, 4)), x, x.reshape(2, 3, 16))
    close(build("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 8 } }", (3, 4, 4)), x, x.reshape(2, 6, 8))


@pytest.mark.parametrize(
    ("kind", "parameters", "shape", "line"),
    [
        ("Convolution", "convolution_param { num_output: 4 }", (3, 5, 5), "convolution_param: kernel_size is missing"),
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 1 group: 2 }", (3, 5, 5), "3 channels and 4"),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 1 }",
            (9,),
            "its input is 9; it needs channels",
        ),
        ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", (3, 5, 5), "pool STOCHASTIC isn't supported"),
        ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", (3, 5, 5), "kernel 2, stride 1 and pad 2 aren't"),
        ("Pooling", "pooling_param { kernel_size: 7 }", (3, 5, 5), "aren't supported for an input of 5x5"),
        ("Pooling", "pooling_param { kernel_size: 1 stride: 3 }", (3, 5, 5), "kernel 1, stride 3 and pad 0 aren't"),
        ("LRN", "lrn_param { local_size: 4 }", (3, 5, 5), "local_size must be odd"),
        ("Dropout", "dropout_param { dropout_ratio: 1 }", (3,), "dropout_ratio is 1; it must be in"),
        ("Eltwise", "", (3,), "two or more of one size are needed"),
        ("Flatten", "flatten_param { axis: 0 }", (3, 4), "axis 0 isn't supported for an input of 3x4"),
    ],
)
def test_what_is_impossible_names_the_layer(kind, parameters, shape, line):
    with pytest.raises(UserError, match=rf"model\.prototxt:\d+: layer it: .*{line}"):
        build(kind, parameters, shape)
