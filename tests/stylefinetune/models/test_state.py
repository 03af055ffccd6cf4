import torch
from safetensors.torch import save_file
from torch import nn

from stylefinetune.models.state import load_tensors, stored_buffers, stored_tensors


class Tied(nn.Module):
    """A network in which two layers share their weights, with integer state and a computed buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(3), persistent=False)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def test_tied_parameters_and_integer_state_are_stored_once_and_restored(tmp_path):
    net = Tied()
    net(torch.rand(4, 3))
    stored = stored_tensors(net)
    assert set(stored) == {
        *("first.weight", "first.bias", "second.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
    }
    assert set(stored_buffers(net)) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    save_file({name: tensor.detach() for name, tensor in stored.items()}, tmp_path / "x.safetensors")
    restored = Tied()
    load_tensors(restored, {name: tensor.detach().clone() for name, tensor in stored.items()})
    assert restored.second.weight is restored.first.weight
    assert restored.norm.num_batches_tracked.item() == 1
    net.eval(), restored.eval()
    x = torch.rand(2, 3)
    assert torch.equal(net(x), restored(x))
