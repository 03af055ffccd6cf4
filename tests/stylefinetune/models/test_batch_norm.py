import copy

import pytest
import torch
from torch import nn

from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models.batch_norm import (
    describe_batch_norm,
    has_batch_norm,
    kept_statistics,
    local_statistics,
    set_batch_norm,
)
from stylefinetune.models.build import build_model
from stylefinetune.models.caffe_graph.operations import CaffeBatchNorm

CPU = torch.device("cpu")


@pytest.fixture(params=["resnet18", "timm/efficientnet_lite0"])
def net(request):
    """A network of torchvision, and one with timm's own kind of batch normalization."""
    return build_model(ModelConfig(arch=request.param), 5, [(32, 32)], seed=1)


def buffers(net):
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def test_eval_keeps_the_running_statistics_and_trains_the_scales(net):
    names = list(net.state_dict())
    frozen = set_batch_norm(net, "eval", 1, 3, CPU)
    assert list(frozen.state_dict()) == names
    before = buffers(frozen)
    for _ in range(2):
        frozen.train()
        frozen(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in buffers(frozen).items())
    assert local_statistics(frozen) == []
    scales = [module.weight for module in frozen.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(scale.grad.abs().sum() > 0 for scale in scales)
    assert copy.deepcopy(frozen).train().state_dict().keys() == frozen.state_dict().keys()


def test_a_pictures_scores_depend_on_the_others_of_the_batch_only_in_mode_train(net):
    pictures = torch.rand(4, 3, 32, 32)
    dropout = [module for module in net.modules() if isinstance(module, nn.Dropout)]
    for module in dropout:
        module.p = 0.0
    for mode, equal in (("train", False), ("eval", True)):
        trained = set_batch_norm(net, mode, 8, 2, CPU).train()
        together, part = trained(pictures), trained(pictures[:2])
        assert torch.allclose(together[:2], part, atol=1e-5) is equal


def test_train_updates_the_statistics_except_where_they_are_kept(net):
    trained = set_batch_norm(net, "train", 4, 2, CPU).train()
    assert len(local_statistics(trained)) == 2 * sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    before = buffers(trained)
    with kept_statistics(trained):
        trained(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in buffers(trained).items())
    trained(torch.rand(2, 3, 32, 32))
    assert not any(torch.equal(tensor, before[name]) for name, tensor in buffers(trained).items())


def test_what_is_impossible_is_one_line(net):
    with pytest.raises(UserError, match=r"model\.batch_norm is sync, which PyTorch supports on GPUs only; set it to"):
        set_batch_norm(net, "sync", 8, 2, CPU)
    with pytest.raises(UserError, match=r"data\.batch_size 5 gives a rank fewer than 2 .* set data\.batch_size to at "):
        set_batch_norm(net, "train", 5, 3, CPU)
    set_batch_norm(net, "train", 6, 3, CPU)


def test_the_statistics_of_all_ranks_are_used_on_gpus(net):
    names, pictures = list(net.state_dict()), torch.rand(2, 3, 32, 32)
    scores = net.eval()(pictures)
    synchronized = set_batch_norm(net, "sync", 8, 2, torch.device("cuda"))
    assert list(synchronized.state_dict()) == names
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synchronized.modules())
    assert local_statistics(synchronized) == []
    assert torch.allclose(synchronized.eval()(pictures), scores, atol=1e-6)


def test_networks_without_batch_normalization_are_recognized(net):
    assert has_batch_norm(net)
    assert not has_batch_norm(build_model(ModelConfig(arch="vit_b_32"), 5, [(32, 32)], seed=1))


def test_only_train_on_several_ranks_depends_on_their_number():
    assert "depends on the number of ranks" in describe_batch_norm("train", 2)
    for mode, ranks in (("train", 1), ("sync", 2), ("eval", 2)):
        assert "depends" not in describe_batch_norm(mode, ranks)


def test_caffes_batch_normalization_is_not_synchronized():
    with pytest.raises(UserError, match=r"model\.batch_norm is sync, which Caffe's nets don't support"):
        set_batch_norm(CaffeBatchNorm(3, 1e-5, 0.999), "sync", 8, 2, torch.device("cuda"))
