import torch
from torch import nn

from stylefinetune.optim.weight_average import WeightAverage


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def change(net, value):
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(value)


def test_an_update_moves_parameters_and_statistics_and_copies_counts():
    net = small_net()
    average = WeightAverage(net, 0.75)
    before = {name: tensor.clone() for name, tensor in average.tensors().items()}
    change(net, 8)
    assert torch.equal(average.tensors()["0.weight"], before["0.weight"])
    average.update()
    for name, tensor in average.tensors().items():
        expected = 8 if name.endswith("num_batches_tracked") else 0.75 * before[name] + 2
        assert torch.allclose(tensor, torch.as_tensor(expected, dtype=tensor.dtype)), name
    assert not average.net.training
    assert not any(parameter.requires_grad for parameter in average.net.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_loaded_average_continues_bitwise_and_without_one_it_begins_with_the_weights():
    net = small_net()
    first, second, fresh = (WeightAverage(net, 0.9) for _ in range(3))
    change(net, 3)
    first.update()
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    change(net, 5)
    for average in (first, second):
        average.update()
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items())
    fresh.load({})
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in fresh.tensors().items())
