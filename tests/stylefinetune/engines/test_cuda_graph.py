import dataclasses

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import ModelConfig, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.cuda_graph import WARM_UP, GraphedAccumulation, capture_graph
from stylefinetune.engines.precision import set_tf32
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.models import build
from tests.programs import python

CPU = torch.device("cpu")
SWITCHES = [
    {},
    {"clip": 0.5},
    {"lars": 0.1},
    {"frozen": True},
    {"channels_last": False},
    {"precision": "bf16"},
    {"precision": "fp16"},
]


def build_engine(device=CPU, clip=-1.0, lars=0.0, frozen=False, world=None, **switches):
    model = ModelConfig(widths=(8, 16, 16, 16, 16, 32, 32))
    net = build.build_model(model, 5, [(43, 43)], seed=1)
    transform = Transform(torch.full((1, 1, 3), 120.0), 1.0, device)
    layers = (LayerRule("conv1", lr_mult=0.0), LayerRule("fc8_*", 10.0))[0 if frozen else 1 :]
    optim = OptimConfig(layers=layers, clip_gradients=clip, lars_trust=lars)
    world = world or World(rank=0, size=1, device=device)
    return TorchEngine(
        net, (transform, transform), optim, world, train=TrainConfig(seed=3, **switches), input_size=(43, 43)
    )


class FakeGraph:
    """Does on a CPU what a capture does: the output and the gradients have no values until a replay writes them."""

    def __init__(self, engine):
        self.parameters = [parameter for parameter in engine.net.parameters() if parameter.requires_grad]
        self.captures = 0

    def capture(self, function):
        self.captures += 1
        with torch.random.fork_rng(devices=[]):
            output = function()
        gradients = [parameter.grad for parameter in self.parameters]
        memory = [output, *gradients]
        for tensor in memory:
            tensor.fill_(torch.nan)

        def replay():
            for parameter in self.parameters:
                parameter.grad = None
            new = [function(), *[parameter.grad for parameter in self.parameters]]
            for tensor, value in zip(memory, new, strict=True):
                tensor.copy_(value)

        return output, replay


def graphed(engine):
    """Let the engine use a graph, and return what has captured it."""
    fake = FakeGraph(engine)
    capture = fake.capture if engine.world.device == CPU else capture_graph
    engine._accumulate_gradients = GraphedAccumulation(engine._accumulate, fake.parameters, capture)
    return fake


def draw(seed, count=6, size=None, device=CPU):
    generator = torch.Generator().manual_seed(seed)
    tops, lefts = torch.randint(0, 6, (2, count), generator=generator)
    batch = Batch(
        pictures=torch.randint(0, 256, (count, 48, 48, 3), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, 5, (count,), generator=generator),
        crops=Crops(tops, lefts, torch.randint(0, 2, (count,), generator=generator).bool(), (43, 43)),
        positions=torch.arange(count),
        size=size or count,
    )
    return batch if device == CPU else dataclasses.replace(batch, pictures=batch.pictures.to(device))


def draw_resident(seed, stored):
    """Return a batch whose pictures are rows of `stored`."""
    batch = draw(seed, device=stored.device)
    rows = torch.randint(0, len(stored), (6,), generator=torch.Generator().manual_seed(seed))
    crops = dataclasses.replace(batch.crops, rows=rows).to(stored.device)
    return dataclasses.replace(batch, pictures=stored, labels=batch.labels.to(stored.device), crops=crops)


def iterations(device):
    """Return the micro-batches and the rate of some iterations; one has other sizes than the rest."""
    usual = [([draw(seed, device=device), draw(90 + seed, device=device)], 0.01 * 0.8**seed) for seed in range(7)]
    return [*usual[:5], ([draw(50, count=4, device=device)], 0.01), *usual[5:]]


def assert_equal(ours, theirs):
    for kind in ("parameters", "slots"):
        mine, other = getattr(ours.state(), kind), getattr(theirs.state(), kind)
        if kind == "slots":
            mine, other = mine["momentum_buffer"], other["momentum_buffer"]
        assert [name for name in other if not torch.equal(mine[name], other[name])] == []
    assert ours.state().scalars == theirs.state().scalars


def train_both(ours, theirs, steps):
    for iteration, (micro_batches, lr) in enumerate(steps):
        losses = [engine.train_step(iteration, micro_batches, lr) for engine in (ours, theirs)]
        assert torch.equal(*losses), f"iteration {iteration}"
    assert_equal(ours, theirs)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_iterations_with_a_graph_have_the_bits_of_those_without(switches):
    ours, theirs = build_engine(**switches), build_engine(**switches)
    fake = graphed(ours)
    train_both(ours, theirs, iterations(CPU))
    assert fake.captures == 1


def test_the_loss_of_an_iteration_is_not_overwritten_by_the_next():
    engine = build_engine()
    graphed(engine)
    steps = [([draw(seed)], 0.01) for seed in range(WARM_UP + 3)]
    losses = [engine.train_step(iteration, *step) for iteration, step in enumerate(steps)]
    assert len({loss.item() for loss in losses}) == len(steps)


def test_a_loaded_state_is_used_and_tests_change_nothing():
    ours, theirs, other = build_engine(), build_engine(), build_engine()
    fake = graphed(ours)
    train_both(ours, theirs, iterations(CPU)[:5])
    other.train_step(0, [draw(9)], 0.05)
    for engine in (ours, theirs):
        engine.load(other.state())
        engine.forward(draw(8, count=3))
    train_both(ours, theirs, iterations(CPU)[:4])
    assert fake.captures == 1


def test_pictures_in_the_memory_of_the_device_are_chosen_by_row_and_not_copied():
    ours, theirs = build_engine(), build_engine()
    fake = graphed(ours)
    stored, others = (
        torch.randint(0, 256, (20, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    train_both(ours, theirs, [([draw_resident(seed, stored)], 0.01) for seed in range(6)])
    (captured,) = ours._accumulate_gradients._graph.inputs
    assert captured.pictures.data_ptr() == stored.data_ptr()
    train_both(ours, theirs, [([draw_resident(seed, others)], 0.01) for seed in range(2)])
    assert fake.captures == 1


TWO_RANKS = """
import os
from stylefinetune.distributed.world import World
from tests.stylefinetune.engines.test_cuda_graph import compare_with_data_parallel

del os.memfd_create  # so that the engine without a graph uses DistributedDataParallel
world = World.join()
compare_with_data_parallel(world)
world.shutdown()
"""


def compare_with_data_parallel(world):
    """Train with a graph and without one."""
    for switches in ({}, {"clip": 0.5}, {"frozen": True}, {"precision": "bf16"}):
        ours, theirs = build_engine(world=world, cuda_graph=True, **switches), build_engine(world=world, **switches)
        assert isinstance(theirs.replica, DistributedDataParallel)
        fake = graphed(ours)
        own = 10 * world.rank
        steps = [([draw(own + seed, size=12), draw(own + seed + 50, size=12)], 0.01 * 0.8**seed) for seed in range(6)]
        train_both(ours, theirs, steps)
        assert fake.captures == 1
        first = ours.net.fc8_flickr.weight
        assert torch.equal(world.sum(first), 2 * first), "the ranks have different weights"


def test_ranks_with_a_graph_train_bit_for_bit_as_with_data_parallel():
    done = python("-c", TWO_RANKS, ranks=2)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that computes the same bits each time."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield torch.device("cuda", 0)
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("switches", [*SWITCHES, {"precision": "tf32"}], ids=str)
def test_a_gpu_computes_the_same_bits_with_a_graph(gpu, switches):
    ours, theirs = build_engine(gpu, cuda_graph=True, **switches), build_engine(gpu, **switches)
    set_tf32(ours.train)
    train_both(ours, theirs, iterations(gpu))
    set_tf32(TrainConfig())
    assert ours._accumulate_gradients._graph is not None


@pytest.mark.gpu
def test_a_gpu_draws_dropout_from_the_seed_of_each_iteration(gpu):
    engine, batch = build_engine(gpu, cuda_graph=True), draw(0, device=gpu)
    losses = [engine.train_step(iteration, [batch], 0.0).item() for iteration in (*range(WARM_UP), 7, 8, 7)]
    assert losses[-3] == losses[-1] != losses[-2]
    assert losses[-1] == build_engine(gpu).train_step(7, [batch], 0.0).item()


@pytest.mark.gpu
def test_a_gpu_captures_batches_of_pictures_in_its_memory(gpu):
    ours, theirs = build_engine(gpu, cuda_graph=True), build_engine(gpu)
    stored = torch.randint(0, 256, (20, 48, 48, 3), dtype=torch.uint8, device=gpu)
    train_both(ours, theirs, [([draw_resident(seed, stored)], 0.01) for seed in range(7)])
