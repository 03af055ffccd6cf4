import copy
import dataclasses
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import ModelConfig, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.torch_engine import TorchEngine, seed_dropout
from stylefinetune.models import build

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


LAST_FASTER = (LayerRule("fc8_*", 10.0),)
THAWING = (LayerRule("fc8_*"), LayerRule("conv*", freeze_until=2), LayerRule("*", freeze_until=1))


def engine(dropout=0.5, layers=LAST_FASTER, clip=-1.0, lars=0.0, optimizer="caffe_sgd", **switches):
    model = ModelConfig(widths=(8, 16, 16, 16, 16, 32, 32), dropout=dropout)
    net = build.build_model(model, 5, [(43, 43)], seed=1)
    transform = Transform(torch.full((1, 1, 3), 120.0), 1.0, ALONE.device)
    optim = OptimConfig(optimizer, layers=layers, clip_gradients=clip, lars_trust=lars)
    train = TrainConfig(seed=3, **switches)
    return TorchEngine(net, (transform, transform), optim, ALONE, train=train, input_size=(43, 43))


def batch(count=6, size=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        pictures=torch.randint(0, 256, (count, 48, 48, 3), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, 5, (count,), generator=generator),
        crops=Crops(torch.full((count,), 2), torch.full((count,), 2), torch.zeros(count, dtype=torch.bool), (43, 43)),
        positions=torch.arange(count),
        size=count if size is None else size,
    )


def subset(batch, pictures):
    crops = Crops(batch.crops.top[pictures], batch.crops.left[pictures], batch.crops.mirror[pictures], (43, 43))
    return Batch(batch.pictures[pictures], batch.labels[pictures], crops, batch.positions[pictures], batch.size)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def snapshot(state):
    return {name: value.clone() for name, value in state.parameters.items()}


def test_the_first_step_is_the_gradient_times_the_rate_of_the_layer():
    trained, reference = engine(dropout=0.0), engine(dropout=0.0)
    before = snapshot(trained.state())
    loss = trained.train_step(0, [batch()], lr=0.01)
    logits = reference.net(reference.train_transform(batch().pictures, batch().crops))
    mean = torch.nn.functional.cross_entropy(logits, batch().labels)
    mean.backward()
    assert loss.item() == pytest.approx(mean.item(), abs=1e-6)
    for name, value in reference.net.named_parameters():
        rate = 0.01 * (10 if name.startswith("fc8") else 1) * (2 if name.endswith("bias") else 1)
        decay = 0 if name.endswith("bias") else 0.0005
        update = rate * (value.grad + decay * before[name])
        assert torch.allclose(before[name] - trained.state().parameters[name], update, atol=1e-7)


def test_micro_batches_add_up_to_the_whole_batch():
    whole, cut = engine(dropout=0.0), engine(dropout=0.0)
    whole_loss = whole.train_step(0, [batch(6, size=6)], lr=0.01)
    halves = [subset(batch(6, size=3), slice(0, 3)), subset(batch(6, size=3), slice(3, 6))]
    cut_loss = cut.train_step(0, halves, lr=0.01)
    assert cut_loss.item() == pytest.approx(whole_loss.item(), abs=1e-6)
    for name, value in whole.state().parameters.items():
        assert torch.allclose(value, cut.state().parameters[name], atol=1e-7)


def test_dropout_depends_only_on_seed_and_iteration():
    losses = [engine().train_step(iteration, [batch()], lr=0.0).item() for iteration in (4, 4, 5)]
    assert losses[0] == losses[1] != losses[2]


def test_dropout_is_that_of_earlier_versions():
    """A run that an earlier version began continues with the same masks."""
    seed_dropout(World(rank=2, size=3, device=ALONE.device), seed=1701, iteration=5)
    assert torch.randint(0, 1000, (6,)).tolist() == [781, 565, 39, 418, 972, 858]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_generator_of_a_gpu_is_seeded_like_that_of_a_cpu():
    device = torch.device("cuda", 0)
    seed_dropout(World(rank=2, size=3, device=device), seed=1701, iteration=5)
    drawn = torch.rand(6, device=device)
    seed_dropout(World(rank=2, size=3, device=ALONE.device), seed=1701, iteration=5)
    torch.manual_seed(torch.initial_seed())
    assert torch.equal(drawn, torch.rand(6, device=device))


@pytest.mark.parametrize("rules", [OptimConfig().layers, THAWING], ids=["all layers", "layers that thaw"])
def test_data_parallel_training_warns_of_nothing_and_has_the_bits_of_training_without(monkeypatch, rules):
    """The group has one rank; the engine, which is told of two, averages gradients that are twice as large over it."""
    monkeypatch.delattr(os, "memfd_create", raising=False)  # else the ranks would share memory
    both = dataclasses.replace(ALONE, size=2)
    net = build.build_model(ModelConfig(widths=(8, 16, 16, 16, 16, 32, 32), dropout=0.0), 5, [(43, 43)], seed=1)
    transform = Transform(torch.full((1, 1, 3), 120.0), 1.0, ALONE.device)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        engines = [
            TorchEngine(
                copy.deepcopy(net),
                (transform, transform),
                OptimConfig(weight_decay=0.0, layers=rules),
                world,
                train=TrainConfig(seed=3),
                input_size=(43, 43),
            )
            for world in (ALONE, both)
        ]
        for iteration in range(3):
            micro_batches = [batch(seed=iteration), batch(4, size=4, seed=9)]
            losses = [
                one.train_step(iteration, micro_batches, lr) for one, lr in zip(engines, (0.01, 0.005), strict=True)
            ]
            assert torch.equal(*losses)
    finally:
        dist.destroy_process_group()
    alone, parallel = (one.state().parameters for one in engines)
    assert changed(alone, parallel) == set()


def test_forward_has_no_dropout_and_changes_nothing():
    tested = engine()
    before = snapshot(tested.state())
    first, again = tested.forward(batch()), tested.forward(batch())
    assert first.shape == (6, 5)
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert changed(before, tested.state().parameters) == set()
    assert tested.forward(batch(0)).shape == (0, 5)


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"lars": 0.1},
        {"precision": "bf16", "channels_last": False},
        {"precision": "fp16"},
        {"optimizer": "sgd"},
        {"ema_decay": 0.5},
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "precision": "fp16"},
        {"optimizer": "rmsprop", "precision": "fp16"},
    ],
    ids=str,
)
def test_training_after_loading_a_state_is_bitwise_equal(further):
    straight, other = engine(**further), engine(**further)
    straight.train_step(0, [batch(seed=1)], lr=0.01)
    other.train_step(7, [batch(seed=9)], lr=0.05)
    other.load(straight.state())
    for iteration in (1, 2):
        straight.train_step(iteration, [batch(seed=iteration)], lr=0.01)
        other.train_step(iteration, [batch(seed=iteration)], lr=0.01)
    assert changed(straight.state().parameters, other.state().parameters) == set()
    ours, theirs = (e.state().slots for e in (straight, other))
    assert ours.keys() == theirs.keys() != set()
    assert [changed(ours[slot], theirs[slot]) for slot in ours] == [set()] * len(ours)


def test_channels_last_is_the_default_for_weights_and_activations_and_changes_no_state():
    laid_out, plain = engine(dropout=0.0), engine(dropout=0.0, channels_last=False)
    layouts = []
    for layer in ("conv1", "conv4"):
        laid_out.net.get_submodule(layer).register_forward_hook(
            lambda _layer, inputs, _output: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
    for iteration in range(2):
        ours, theirs = (one.train_step(iteration, [batch(seed=iteration)], lr=0.01) for one in (laid_out, plain))
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert laid_out.forward(batch()).shape == (6, 5)
    assert layouts == [True] * 6
    assert laid_out.net.get_submodule("conv4").weight.is_contiguous(memory_format=torch.channels_last)
    plain.load(laid_out.state())
    assert changed(plain.state().parameters, laid_out.state().parameters) == set()
    assert plain.net.get_submodule("conv4").weight.is_contiguous()


def test_bf16_computes_in_bfloat16_with_loss_logits_and_state_in_fp32():
    trained, plain = engine(dropout=0.0, precision="bf16"), engine(dropout=0.0)
    computed = []
    fc7 = trained.net.get_submodule("fc7")
    fc7.register_forward_hook(lambda _layer, _inputs, output: computed.append(output.dtype))
    ours, theirs = (one.train_step(0, [batch()], lr=0.01) for one in (trained, plain))
    logits = trained.forward(batch())
    assert computed == [torch.bfloat16] * 2
    assert (ours.dtype, logits.dtype) == (torch.float32, torch.float32)
    assert ours.item() == pytest.approx(theirs.item(), abs=0.01)
    state = trained.state()
    assert {value.dtype for value in [*state.parameters.values(), *state.slots["momentum_buffer"].values()]} == {
        torch.float32
    }


def test_fp16_computes_in_float16_and_skips_updates_whose_gradients_overflow():
    trained, plain = engine(dropout=0.0, precision="fp16"), engine(dropout=0.0)
    computed, before = [], snapshot(trained.state())
    fc7 = trained.net.get_submodule("fc7")
    fc7.register_forward_hook(lambda _layer, _inputs, output: computed.append(output.dtype))
    trained.load(dataclasses.replace(trained.state(), scalars={"loss_scale": 2.0**40, "good_steps": 5}))
    ours, theirs = (one.train_step(0, [batch()], lr=0.01) for one in (trained, plain))
    assert computed == [torch.float16]
    assert ours.item() == pytest.approx(theirs.item(), abs=0.01)
    assert changed(before, trained.state().parameters) == set()
    assert not any(value.any() for value in trained.state().slots["momentum_buffer"].values())
    assert trained.state().scalars == trained.scalars() == {"loss_scale": 2.0**39, "good_steps": 0}
    trained.load(dataclasses.replace(trained.state(), scalars={"loss_scale": 1024.0, "good_steps": 0}))
    assert trained.train_step(1, [batch(), batch(seed=1)], lr=0.01).isfinite()
    assert trained.scalars() == {"loss_scale": 1024.0, "good_steps": 1}
    plain.train_step(1, [batch(), batch(seed=1)], lr=0.01)
    assert changed(before, trained.state().parameters) != set()


def test_a_loss_scale_below_the_minimum_makes_the_loss_nan():
    trained = engine(precision="fp16")
    trained.load(dataclasses.replace(trained.state(), scalars={"loss_scale": 2.0**-17, "good_steps": 0}))
    assert trained.train_step(0, [batch()], lr=0.01).isnan()


def test_a_layer_that_was_frozen_starts_with_zero_momentum():
    frozen = engine(layers=(LayerRule("fc8_*"), LayerRule("*", lr_mult=0.0)))
    frozen.train_step(0, [batch()], lr=0.01)
    assert set(frozen.state().slots["momentum_buffer"]) == {"fc8_flickr.weight", "fc8_flickr.bias"}
    thawed = engine()
    thawed.load(frozen.state())
    assert thawed.state().slots["momentum_buffer"]["conv1.weight"].abs().sum() == 0
    assert np.isfinite(thawed.train_step(1, [batch()], lr=0.01).item())


@pytest.mark.parametrize("optimizer", ["caffe_sgd", "adamw"])
def test_layers_thaw_at_their_iteration_and_a_run_resumes_before_and_after(optimizer):
    straight = engine(layers=THAWING, optimizer=optimizer, clip=0.5)
    saved, moved = [], []
    for iteration in range(4):
        before = snapshot(straight.state())
        saved.append(copy.deepcopy(straight.state()))
        straight.train_step(iteration, [batch(seed=iteration)], lr=0.01)
        moved.append({name[:2] for name in changed(before, straight.state().parameters)})
    assert moved == [{"fc"}, {"fc"}, {"fc", "co"}, {"fc", "co"}]
    assert changed(saved[0].parameters, saved[1].parameters) == {"fc8_flickr.weight", "fc8_flickr.bias"}
    frozen = [slots["conv1.weight"] for state in saved[:3] for slots in state.slots.values()]
    assert not any(tensor.any() for tensor in frozen)
    for start in (1, 2, 3):
        resumed = engine(layers=THAWING, optimizer=optimizer, clip=0.5)
        resumed.load(saved[start])
        for iteration in range(start, 4):
            resumed.train_step(iteration, [batch(seed=iteration)], lr=0.01)
        assert changed(straight.state().parameters, resumed.state().parameters) == set()


def test_frozen_layers_have_no_part_in_the_backward_pass_or_in_a_clipped_norm():
    alone = engine(dropout=0.0, clip=0.5, layers=(LayerRule("fc8_*"), LayerRule("*", 0.0)))
    staged = engine(dropout=0.0, clip=0.5, layers=(LayerRule("fc8_*"), LayerRule("*", freeze_until=9)))
    for one in (alone, staged):
        one.train_step(0, [batch()], lr=0.01)
    assert changed(alone.state().parameters, staged.state().parameters) == set()
    assert not staged.net.get_submodule("conv1").weight.requires_grad


def test_the_average_of_the_weights_follows_them_and_has_logits():
    trained = engine(ema_decay=0.5)
    expected = snapshot(trained.state())
    assert torch.equal(trained.forward_average(batch()), trained.forward(batch()))
    for iteration in range(2):
        trained.train_step(iteration, [batch(seed=iteration)], lr=0.01)
        expected = {name: (value + trained.state().parameters[name]) / 2 for name, value in expected.items()}
    average = trained.state().slots["ema"]
    assert all(torch.allclose(value, average[name], atol=1e-7) for name, value in expected.items())
    assert not torch.equal(trained.forward_average(batch()), trained.forward(batch()))
    trained.load(dataclasses.replace(trained.state(), parameters={name: average[name].clone() for name in average}))
    assert torch.equal(trained.forward_average(batch()), trained.forward(batch()))


def test_clipped_gradients_are_what_any_optimizer_gets():
    clipped, reference = engine(dropout=0.0, optimizer="adamw", clip=0.5), engine(dropout=0.0, optimizer="adamw")
    halves = [subset(batch(6, size=3), slice(0, 3)), subset(batch(6, size=3), slice(3, 6))]
    for one in (clipped, reference):
        one.train_step(0, halves, lr=0.01)

    def gradient(one):
        return torch.cat([average.flatten() / 0.1 for average in one.state().slots["exp_avg"].values()])

    assert 2 * gradient(reference).norm() > 0.5  # the sum of two micro-batches is twice their mean
    assert gradient(clipped).norm().item() == pytest.approx(0.25, rel=1e-3)


def test_the_clipped_norm_is_that_of_the_sum_over_the_micro_batches():
    plain, clipped, loose = engine(dropout=0.0), engine(dropout=0.0, clip=0.5), engine(dropout=0.0, clip=1e9)
    before = snapshot(plain.state())
    halves = [subset(batch(6, size=3), slice(0, 3)), subset(batch(6, size=3), slice(3, 6))]
    for one in (plain, clipped, loose):
        for group in one.optimizer.param_groups:
            group["weight_decay"] = 0.0
        one.train_step(0, halves, lr=0.01)

    def updates(one):
        rates = {
            (n, g["lr_mult"])
            for g in one.optimizer.param_groups
            for n, p in one.net.named_parameters()
            for q in g["params"]
            if p is q
        }
        return {name: (before[name] - one.state().parameters[name]) / (0.01 * mult) for name, mult in rates}

    whole = torch.cat([update.flatten() for update in updates(plain).values()])
    small = torch.cat([update.flatten() for update in updates(clipped).values()])
    assert 2 * whole.norm() > 0.5  # the sum of two micro-batches is twice their mean
    assert small.norm().item() == pytest.approx(0.25, rel=1e-3)
    assert changed(plain.state().parameters, loose.state().parameters) == set()
