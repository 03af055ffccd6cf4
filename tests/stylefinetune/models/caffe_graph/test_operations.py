import numpy as np
import pytest
import torch

from stylefinetune.models.batch_norm import freeze_statistics
from stylefinetune.models.caffe_graph.operations import (
    CaffeBatchNorm,
    Concat,
    Eltwise,
    GlobalPool,
    InnerProduct,
    Reshape,
    Scale,
    WithinChannelNorm,
    pooled_size,
)
from tests.stylefinetune.models.caffe_graph import caffe_formulas


@pytest.fixture
def draw():
    random = np.random.default_rng(3)
    return lambda *shape: random.normal(size=shape)


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_batch_norm_has_caffes_output_and_statistics_after_each_batch(draw):
    ours, caffes = CaffeBatchNorm(3, eps=1e-5, fraction=0.9).double(), caffe_formulas.BatchNorm(3, 1e-5, 0.9)
    other = draw(2, 3, 4, 5)
    close(ours.eval()(torch.tensor(other)), caffes.test(other))  # before the first batch
    for _ in range(4):
        x = 3 + 2 * draw(2, 3, 4, 5)
        close(ours.train()(torch.tensor(x)), caffes.train(x))
        close(ours.eval()(torch.tensor(other)), caffes.test(other))
        close(ours.scale_factor, caffes.factor)
        close(ours.running_mean, caffes.mean / caffes.factor)
    before = ours.running_mean.clone()
    frozen = freeze_statistics(ours).train()
    close(frozen(torch.tensor(other)), caffes.test(other))
    assert torch.equal(frozen.running_mean, before)


def test_batch_norm_of_fully_connected_outputs(draw):
    x = draw(6, 3)
    expected = caffe_formulas.BatchNorm(3, 1e-5, 0.9).train(x[:, :, None, None])[:, :, 0, 0]
    close(CaffeBatchNorm(3, eps=1e-5, fraction=0.9).double()(torch.tensor(x)), expected)


def test_scale_multiplies_channels_and_adds_biases(draw):
    x, scale = draw(2, 3, 4, 5), Scale(3, has_bias=True)
    scale.weight.data, scale.bias.data = (torch.tensor(draw(3)) for _ in range(2))
    weight, bias = (blob.detach().numpy().reshape(1, 3, 1, 1) for blob in (scale.weight, scale.bias))
    close(scale(torch.tensor(x)), x * weight + bias)
    assert Scale(3, has_bias=False).bias is None


def test_local_response_norm_within_a_channel(draw):
    x = draw(2, 3, 7, 6)
    close(WithinChannelNorm(5, 0.5, 0.75)(torch.tensor(x)), caffe_formulas.lrn_within(x, 5, 0.5, 0.75))


def test_global_pooling(draw):
    x = draw(2, 3, 4, 5)
    close(GlobalPool(is_max=True)(torch.tensor(x)), x.max((2, 3), keepdims=True))
    close(GlobalPool(is_max=False)(torch.tensor(x)), x.mean((2, 3), keepdims=True))


def test_eltwise_and_concat(draw):
    blobs = [draw(2, 3, 4) for _ in range(3)]
    a, b, c = blobs
    tensors = [torch.tensor(blob) for blob in blobs]
    close(Eltwise("SUM", [1, 1, 1])(*tensors), a + b + c)
    close(Eltwise("SUM", [2, -1, 0.5])(*tensors), 2 * a - b + 0.5 * c)
    close(Eltwise("PROD", [1, 1, 1])(*tensors), a * b * c)
    close(Eltwise("MAX", [1, 1, 1])(*tensors), np.maximum(np.maximum(a, b), c))
    close(Concat(2)(*tensors), np.concatenate(blobs, 2))


@pytest.mark.parametrize(
    ("sizes", "axis", "num_axes", "shape"),
    [  # the examples in caffe.proto, for a blob of 2 x 8
        ([2, 2, 4], 0, -1, (2, 2, 4)),
        ([0, 2, 4], 0, -1, (2, 2, 4)),
        ([0, 2, -1], 0, -1, (2, 2, 4)),
        ([0, -1, 4], 0, -1, (2, 2, 4)),
        ([2, 4], 1, -1, (2, 2, 4)),
        ([2, 4], -2, 1, (2, 2, 4)),
        ([1], 1, 0, (2, 1, 8)),
        ([1], 2, 0, (2, 8, 1)),
    ],
)
def test_reshape(sizes, axis, num_axes, shape):
    x = torch.arange(16).reshape(2, 8)
    assert torch.equal(Reshape(sizes, axis, num_axes)(x), x.reshape(shape))


def test_fully_connected_layers_flatten(draw):
    x, layer = draw(2, 3, 2, 2), InnerProduct(12, 4).double()
    close(layer(torch.tensor(x)), x.reshape(2, 12) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())


def test_pooled_sizes_are_rounded_up_and_clipped_only_with_a_border():
    assert pooled_size(55, 3, 2, 0, ceil=True) == 27
    assert pooled_size(56, 3, 2, 0, ceil=True) == 28
    assert pooled_size(56, 3, 2, 0, ceil=False) == 27
    assert pooled_size(4, 2, 2, 1, ceil=True) == 3
    assert pooled_size(3, 2, 2, 1, ceil=True) == 2  # a third window would start in the border beyond
