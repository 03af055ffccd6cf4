import torch

from stylefinetune.models.caffe_graph.blobs import layer_blobs, name_statistics
from stylefinetune.models.caffe_graph.network import CaffeGraph
from stylefinetune.models.caffe_graph.operations import CaffeBatchNorm
from tests.stylefinetune.models.caffe_graph.published_nets import residual


def test_the_blobs_of_a_file_become_statistics_and_blobs_again():
    net = CaffeGraph(residual(), 10, (16, 16), seed=1)
    blobs = {
        "bn_conv1.weight": torch.arange(8.0) * 4,
        "bn_conv1.bias": torch.ones(8) * 2,
        "bn_conv1.2": torch.tensor([4.0]),
    }
    other = {"conv1.weight": torch.ones(3), "scale_conv1.weight": torch.ones(8), "scale_conv1.bias": torch.ones(8)}
    named = name_statistics(net, {**blobs, **other})
    assert torch.equal(named["bn_conv1.running_mean"], torch.arange(8.0))
    assert torch.equal(named["bn_conv1.running_var"], torch.full((8,), 0.5))
    assert named["bn_conv1.scale_factor"] == 4
    assert named.keys() == {*other, *(f"bn_conv1.{name}" for name in ("running_mean", "running_var", "scale_factor"))}
    module = net.bn_conv1
    for name, buffer in module.named_buffers():
        buffer.copy_(named[f"bn_conv1.{name}"])
    assert all(torch.equal(found, blob) for found, blob in zip(layer_blobs(module), blobs.values(), strict=True))


def test_other_layers_have_their_parameters():
    net = CaffeGraph(residual(), 10, (16, 16), seed=1)
    assert [tuple(blob.shape) for blob in layer_blobs(net.conv1)] == [(8, 3, 3, 3), (8,)]
    assert [tuple(blob.shape) for blob in layer_blobs(net.scale_conv1)] == [(8,), (8,)]
    assert layer_blobs(net.pool) == []


def test_statistics_without_a_batch_are_zero():
    blobs = layer_blobs(CaffeBatchNorm(2, 1e-5, 0.999))
    named = name_statistics(
        CaffeGraph(residual(), 10, (16, 16), seed=1),
        {f"bn_res_a.{name}": blob for name, blob in zip(("weight", "bias", "2"), blobs, strict=True)},
    )
    assert all(torch.equal(tensor, torch.zeros_like(tensor)) for tensor in named.values())
