import json
import math

import pytest
import torch

from stylefinetune.distributed.world import World
from stylefinetune.engines.norms import layer_norms
from stylefinetune.engines.norms.layer_norms import LayerNorms, Part
from tests.programs import python
from tests.stylefinetune.engines.every_stage import MICRO_BATCHES, OPTIM, pack, same, train, train_measured, with_torch

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def gradients_of(engine):
    """Keep the gradients of the next update, in float64."""
    kept = {}

    def keep(_optimizer, *_):
        kept.update({name: p.grad.double() for name, p in engine.net.named_parameters() if p.grad is not None})

    engine.optimizer.register_step_pre_hook(keep)
    return kept


def norm_of(tensors, layer):
    """Compute the L2 norm of a layer's tensors, or of all of them, in float64."""
    own = [tensor.double().flatten() for name, tensor in tensors.items() if name.startswith(layer)]
    return torch.cat(own).norm().item()


@pytest.mark.parametrize("chunk", [32768, 700])
def test_norms_are_those_of_the_gradients_and_of_the_change_of_the_weights(chunk, monkeypatch):
    """conv1 is frozen, and no layer's size is a multiple of 700."""
    monkeypatch.setattr(layer_norms, "_CHUNK", chunk)
    engine = with_torch(ALONE)
    gradients, before = gradients_of(engine), pack(engine.state())
    (norms,) = train_measured(engine, ALONE, range(1))
    after = {name: tensor for name, tensor in pack(engine.state()).items() if name in before and "/" not in name}
    layers = ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8_flickr"]
    assert norms["grad_norm"] == pytest.approx(norm_of(gradients, ""), rel=1e-6)
    assert [name.removeprefix("grad_norm/") for name in norms if name.startswith("grad_norm/")] == layers
    for layer in layers:
        change = {name: after[name].double() - before[name].double() for name in after}
        ratio = norm_of(change, layer) / norm_of({name: before[name] for name in after}, layer)
        assert norms[f"grad_norm/{layer}"] == pytest.approx(norm_of(gradients, layer), rel=1e-6)
        assert norms[f"update_ratio/{layer}"] == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("switches", [{}, {"precision": "fp16"}, {"ema_decay": 0.5}])
def test_measuring_changes_no_bit_of_the_training(switches):
    measured, plain = with_torch(ALONE, dropout=0.5, **switches), with_torch(ALONE, dropout=0.5, **switches)
    train_measured(measured, ALONE, range(4))
    train(plain, ALONE, range(4))
    assert same(pack(measured.state()), pack(plain.state()))
    assert measured.scalars() == plain.scalars()


def test_a_step_that_is_not_measured_has_no_norms_and_copies_nothing():
    engine = with_torch(ALONE)
    train_measured(engine, ALONE, range(1))
    engine.norms.start(measure=False)
    train(engine, ALONE, range(1, 2))
    assert engine.norms.values() == {}


def test_a_skipped_update_has_no_norms():
    engine = with_torch(ALONE, precision="fp16")
    engine.scaler.load_state_dict(engine.scaler.state_dict() | {"scale": 2.0**100})
    assert train_measured(engine, ALONE, range(1)) == [{}]


def test_gradients_are_those_before_clipping_and_with_all_micro_batches():
    clipped, plain = with_torch(ALONE, optim=type(OPTIM)(clip_gradients=0.01)), with_torch(ALONE, optim=type(OPTIM)())
    (ours,), (theirs,) = (train_measured(engine, ALONE, range(1)) for engine in (clipped, plain))
    assert len(MICRO_BATCHES) == 2
    assert {name: ours[name] for name in ours if name.startswith("grad")} == {
        name: theirs[name] for name in theirs if name.startswith("grad")
    }
    assert ours["update_ratio/fc6"] < theirs["update_ratio/fc6"] / 10


def test_a_layer_whose_weights_are_0_has_no_ratio():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    norms = LayerNorms({weight: [Part("a", 0, 2), Part("b", 2, 3)]}, ["a", "b", "elsewhere"], ALONE)
    norms.start(measure=True)
    weight.data[:2] = torch.tensor([3.0, 4.0])
    weight.grad = torch.tensor([0.0, 2.0, 1.0])
    norms.before_step(optimizer)
    optimizer.step()
    norms.after_step()
    norms.scale_gradients(2.0)
    expected = {"grad_norm": 2 * math.sqrt(5), "grad_norm/a": 4, "update_ratio/a": 0.04, "grad_norm/b": 2}
    assert norms.values() == pytest.approx(expected | {"grad_norm/elsewhere": 0}, rel=1e-5)


# Three iterations on several ranks: through shared memory, and with DistributedDataParallel.
ON_RANKS = """
import json, sys
from stylefinetune.distributed.world import World
from stylefinetune.engines.torch_engine import TorchEngine
from tests.stylefinetune.engines.every_stage import train_measured, with_torch

world = World.join()
norms = [train_measured(with_torch(world), world, range(3))]
TorchEngine._share_gradients = lambda self: None
norms.append(train_measured(with_torch(world), world, range(3)))
if world.is_main:
    print(json.dumps(norms))
world.shutdown()
"""


def test_two_ranks_have_the_norms_of_one():
    """Each rank measures a part of them."""
    alone = train_measured(with_torch(ALONE), ALONE, range(3))
    done = python("-c", ON_RANKS, ranks=2)
    assert done.returncode == 0, done.stderr
    for norms in json.loads(done.stdout):
        for ours, theirs in zip(norms, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
