"""A program of one rank or several: trains a small net with DeepSpeed at each stage, from a state written by PyTorch.

python every_stage.py FOLDER: reads FOLDER/start.safetensors, and writes stage_N.safetensors and results.json there.
python every_stage.py FOLDER compiled: trains with torch.compile instead, and writes results.json alone.

The layers are odd: one is frozen, some have sizes that no number of ranks divides, and of two micro-batches the second
has two pictures, so that the third of three ranks has none.
"""

import dataclasses
import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.utils import counters

from stylefinetune.config.deepspeed import DeepSpeedConfig
from stylefinetune.config.optim import LayerRule, OptimConfig
from stylefinetune.config.schema import Config, ModelConfig, TrainConfig
from stylefinetune.data.dataset import Batch
from stylefinetune.data.transforms import Crops, Transform
from stylefinetune.distributed.world import World
from stylefinetune.engines.deepspeed_engine import DeepSpeedEngine
from stylefinetune.engines.engine import EngineState
from stylefinetune.engines.precision import check_precision
from stylefinetune.engines.torch_engine import TorchEngine
from stylefinetune.errors import UserError
from stylefinetune.models import build
from stylefinetune.optim.caffe_sgd import MOMENTUM

OPTIM = OptimConfig(layers=(LayerRule("conv1", lr_mult=0.0), LayerRule("fc8_*", 10.0)))
MICRO_BATCHES = (7, 2)
LR = 0.01
STAGES = (0, 1, 2, 3)


def net(dropout):
    fillers = (0.01, 0.05, 0.05, 0.05, 0.05, 0.05, 0.1, 0.1)  # large enough for every layer to move
    model = ModelConfig(widths=(8, 16, 16, 16, 16, 32, 31), dropout=dropout, weight_filler_std=fillers)
    return build.build_model(model, 5, [(43, 43)], seed=1)


def transforms(world):
    both = Transform(torch.full((1, 1, 3), 120.0), 1.0, world.device)
    return both, both


def with_torch(world, dropout=0.0, optim=OPTIM, **switches):
    train = TrainConfig(seed=3, **switches)
    return TorchEngine(net(dropout), transforms(world), optim, world, train=train, input_size=(43, 43))


def with_deepspeed(world, folder, stage, dropout=0.0, optim=OPTIM, **switches):
    config = Config(
        run_dir=str(folder),
        engine="deepspeed",
        optim=optim,
        train=TrainConfig(iter_size=len(MICRO_BATCHES), seed=3, **switches),
        deepspeed=DeepSpeedConfig(zero_stage=stage),
    )
    return DeepSpeedEngine(net(dropout), transforms(world), config, world)


def small(world, **switches):
    """PyTorch alone over a net that is compiled in seconds; CaffeNet takes minutes."""
    torch.manual_seed(0)
    layers = OrderedDict(conv1=nn.Conv2d(3, 8, 11, stride=4), relu1=nn.ReLU(), flatten=nn.Flatten())
    layers = nn.Sequential(OrderedDict(layers, fc8_flickr=nn.Linear(8 * 9 * 9, 5)))
    train = TrainConfig(seed=3, **switches)
    return TorchEngine(layers, transforms(world), OptimConfig(), world, train=train, input_size=(43, 43))


def slice_of(world, count, seed):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (count, 48, 48, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 5, (count,), generator=generator)
    own = slice(count * world.rank // world.size, count * (world.rank + 1) // world.size)
    held = len(labels[own])
    crops = Crops(torch.full((held,), 2), torch.full((held,), 2), torch.zeros(held, dtype=torch.bool), (43, 43))
    return Batch(pictures[own], labels[own], crops, torch.arange(count)[own], count)


def train(engine, world, iterations, lr=LR):
    """Return each iteration's loss."""
    losses = []
    for iteration in iterations:
        batches = [slice_of(world, count, 10 * iteration + place) for place, count in enumerate(MICRO_BATCHES)]
        losses.append(world.sum(engine.train_step(iteration, batches, lr)).item())
    return losses


def train_measured(engine, world, iterations, lr=LR):
    """Return the norms by layer of each iteration."""
    norms = []
    for iteration in iterations:
        engine.norms.start(measure=True)
        train(engine, world, [iteration], lr)
        norms.append(engine.norms.values())
    return norms


def pack(state):
    """Return the state's tensors in one dict, copied."""
    slots = {f"{slot}/{name}": tensor for slot, named in state.slots.items() for name, tensor in named.items()}
    tensors = state.parameters | slots
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def unpack(tensors):
    parameters = {name: tensor for name, tensor in tensors.items() if "/" not in name}
    slots = {}
    for key in tensors.keys() - parameters.keys():
        slot, _, name = key.partition("/")
        slots.setdefault(slot, {})[name] = tensors[key]
    return EngineState(parameters, {}, slots)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def try_stage(stage, world, folder):
    start = load_file(folder / "start.safetensors")
    engine = with_deepspeed(world, folder, stage)
    fresh = pack(engine.state())
    engine.load(unpack(start))
    read_back = pack(engine.state())
    losses = train(engine, world, range(2, 5))
    logits = engine.forward(slice_of(world, 5, seed=99))
    end = pack(engine.state())
    if world.is_main:
        save_file(end, folder / f"stage_{stage}.safetensors")

    without = unpack(start)
    del without.slots[MOMENTUM]["conv2.weight"]
    engine.load(without)
    at_rest = [name for name, tensor in engine.state().slots[MOMENTUM].items() if not tensor.any()]

    straight = with_deepspeed(world, folder, stage, dropout=0.5)
    dropped = train(straight, world, range(2))
    dropped_with_torch = train(with_torch(world, dropout=0.5), world, range(2))
    resumed = with_deepspeed(world, folder, stage, dropout=0.5)
    resumed.load(unpack(pack(straight.state())))
    straight.norms.start(measure=True)  # which changes no number
    kept = train(straight, world, range(2, 5)) == train(resumed, world, range(2, 5))

    laid_out = with_deepspeed(world, folder, stage, channels_last=False)
    laid_out.load(unpack(start))
    layouts = set()
    laid_out._engine.module.conv4.register_forward_hook(
        lambda _layer, inputs, _output: layouts.add(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    in_contiguous = train(laid_out, world, range(2, 5))

    clipped = with_deepspeed(world, folder, stage, optim=dataclasses.replace(OPTIM, clip_gradients=0.5))
    reference = with_torch(world, optim=dataclasses.replace(OPTIM, clip_gradients=0.5))
    norms = [train_measured(engine, world, range(1)) for engine in (clipped, reference)]
    ours, theirs = pack(clipped.state()), pack(reference.state())
    return {
        "fresh is the net": same(fresh, pack(with_torch(world).state())),
        "read back": same(read_back, start),
        "losses": losses,
        "logits": list(logits.shape),
        "at rest": at_rest,
        "dropped": [dropped, dropped_with_torch],
        "resumed bitwise": kept and same(pack(straight.state()), pack(resumed.state())),
        "in contiguous format": in_contiguous,
        "layouts": sorted(layouts),
        "clipped": max((ours[name] - theirs[name]).abs().max().item() for name in theirs),
        "norms": norms,
    }


def try_adamw(stage, world, folder):
    """Against PyTorch alone on the same ranks, from a state in which three steps are done; resumed, and refused.

    Two layers thaw, one before that state and one after it.
    """
    rules = (*OPTIM.layers, LayerRule("conv2", freeze_until=2), LayerRule("conv3", freeze_until=4))
    optim = OptimConfig("adamw", layers=rules, clip_gradients=0.5)
    ema = 0.5 if stage < 3 else 0.0
    begun = with_torch(world, optim=optim, ema_decay=ema)
    train(begun, world, range(3), lr=0.001)
    start = pack(begun.state())
    straight = with_deepspeed(world, folder, stage, optim=optim, ema_decay=ema)
    straight.load(unpack(start))
    read_back = same(pack(straight.state()), start)
    losses = [train(engine, world, range(3, 4), lr=0.001) for engine in (straight, begun)]
    norms = [train_measured(engine, world, range(4, 5), lr=0.001) for engine in (straight, begun)]
    ours, theirs = pack(straight.state()), pack(begun.state())
    logits = [engine.forward_average(slice_of(world, 5, seed=99)) for engine in (straight, begun)] if ema else [0, 0]
    resumed = with_deepspeed(world, folder, stage, optim=optim, ema_decay=ema)
    resumed.load(unpack(ours))
    kept = train(straight, world, range(5, 6), lr=0.001) == train(resumed, world, range(5, 6), lr=0.001)
    kept = kept and same(pack(straight.state()), pack(resumed.state()))
    start["step/fc6.weight"] = torch.tensor(0.0)
    try:
        resumed.load(unpack(start))
        refused = None
    except UserError as error:
        refused = str(error)
    return {
        "read back": read_back,
        "slots": sorted({key.partition("/")[0] for key in ours if "/" in key}),
        "steps": {key: ours[f"step/{key}.weight"].item() for key in ("conv2", "conv3", "fc6")},
        "thawed": [
            (ours["conv3.weight"] - start["conv3.weight"]).abs().max().item() > 1e-5,
            bool(start["exp_avg/conv3.weight"].any()),
        ],
        "losses": losses,
        "norms": norms,
        "apart": max((ours[name] - theirs[name]).abs().max().item() for name in theirs),
        "resumed bitwise": kept,
        "refused": refused,
        "averages agree": torch.allclose(*map(torch.as_tensor, logits), atol=1e-5),
    }


def try_lars(world, folder):
    """Stage 0 against PyTorch alone on the same ranks, and resumed."""
    lars = dataclasses.replace(OPTIM, lars_trust=0.1)
    straight, reference = with_deepspeed(world, folder, 0, optim=lars), with_torch(world, optim=lars)
    losses = [train(engine, world, range(3)) for engine in (straight, reference)]
    ours, theirs = pack(straight.state()), pack(reference.state())
    resumed = with_deepspeed(world, folder, 0, optim=lars)
    resumed.load(unpack(ours))
    kept = train(straight, world, range(3, 5)) == train(resumed, world, range(3, 5))
    return {
        "losses": losses,
        "apart": max((ours[name] - theirs[name]).abs().max().item() for name in theirs),
        "resumed bitwise": kept and same(pack(straight.state()), pack(resumed.state())),
    }


def try_compiled(world):
    """Two micro-batches, the second of which leaves the third of three ranks none, on the same ranks."""
    try:
        check_precision(TrainConfig(compile=True), world.device)
    except UserError as error:
        return {"can't": str(error)}
    compiled, plain = small(world, compile=True), small(world)
    names = list(compiled.state().parameters)
    counters.clear()
    losses = [train(engine, world, range(2), lr=1e-6) for engine in (compiled, plain)]
    ours, theirs = pack(compiled.state()), pack(plain.state())
    return {
        "graphs": world.min(torch.tensor([counters["stats"]["unique_graphs"]])).item(),
        "losses": losses,
        "names": names,
        "apart": max((ours[name] - theirs[name]).abs().max().item() for name in theirs),
    }


def try_bf16(world, folder):
    start = unpack(load_file(folder / "start.safetensors"))
    engine = with_deepspeed(world, folder, 1, precision="bf16")
    engine.load(start)
    losses = train(engine, world, range(2, 5))
    return {"losses": losses, "kept as": sorted({str(tensor.dtype) for tensor in pack(engine.state()).values()})}


def try_fp16(stage, world, folder):
    """Against PyTorch alone on the same ranks: a scale that overflows, then one that doesn't, and resumed.

    Of stages that share their code one clips, by whose norm DeepSpeed finds what isn't finite, and one doesn't.
    """
    optim, start = dataclasses.replace(OPTIM, clip_gradients=0.5), load_file(folder / "start.safetensors")
    optim = OPTIM if stage == 1 else optim
    scaled = dataclasses.replace(unpack(start), scalars={"loss_scale": 2.0**40, "good_steps": 7})
    straight = with_deepspeed(world, folder, stage, optim=optim, precision="fp16")
    reference = with_torch(world, optim=optim, precision="fp16")
    told = {"first": straight.scalars(), "losses": [], "scalars": []}
    for engine in (straight, reference):
        engine.load(scaled)
        skipped = train(engine, world, range(1))
        told["scalars"].append(engine.scalars())
        stayed = pack(engine.state())
        engine.load(dataclasses.replace(unpack(stayed), scalars={"loss_scale": 256.0, "good_steps": 1998}))
        told["losses"].append(skipped + train(engine, world, range(2, 4)))
        told["scalars"].append(engine.state().scalars)
    ours, theirs = pack(straight.state()), pack(reference.state())
    resumed = with_deepspeed(world, folder, stage, optim=optim, precision="fp16")
    resumed.load(dataclasses.replace(unpack(ours), scalars=straight.scalars()))
    kept = train(straight, world, range(4, 6)) == train(resumed, world, range(4, 6))
    kept = kept and same(pack(straight.state()), pack(resumed.state()))
    straight.load(dataclasses.replace(scaled, scalars={"loss_scale": 2.0**-17, "good_steps": 0}))
    return told | {
        "stayed": same(stayed, start),
        "apart": max((ours[name] - theirs[name]).abs().max().item() for name in theirs),
        "moved": max((ours[name] - start[name]).abs().max().item() for name in theirs),
        "resumed bitwise": kept,
        "at an end": train(straight, world, range(1))[0],
    }


def try_unclipped_fp16(world, folder):
    """At stage 0, where DeepSpeed removes the scale of the loss from the gradients only if it clips."""
    engines = with_deepspeed(world, folder, 0, precision="fp16"), with_torch(world, precision="fp16")
    norms = [train_measured(engine, world, range(2)) for engine in engines]
    ours, theirs = (pack(engine.state()) for engine in engines)
    return {"norms": norms, "apart": max((ours[name] - theirs[name]).abs().max().item() for name in theirs)}


def try_refused(world, folder):
    """What DeepSpeed alone can judge."""
    bogus = DeepSpeedConfig(extra={"checkpoint": {"tag_validation": "Bogus"}})
    try:
        DeepSpeedEngine(net(0.0), transforms(world), Config(run_dir=str(folder), deepspeed=bogus), world)
    except UserError as error:
        return str(error)


def try_overflow(world, folder):
    """An infinite gradient of fc7's weights, of a loss that is finite."""
    start = load_file(folder / "start.safetensors")
    for name, value in (("fc6.weight", 0), ("fc6.bias", 3e38), ("fc7.weight", 0), ("fc7.bias", 1)):
        start[name].fill_(value)
    start["fc8_flickr.weight"].zero_()[0] = 1e3
    engine = with_deepspeed(world, folder, 3)
    engine.load(unpack(start))
    losses = train(engine, world, range(2, 3))
    return {"loss": losses[0], "left as it was": same(pack(engine.state()), start)}


def try_deepspeed(world, folder):
    results = {str(stage): try_stage(stage, world, folder) for stage in STAGES}
    results["adamw"] = {stage: try_adamw(stage, world, folder) for stage in STAGES}
    results["lars"] = try_lars(world, folder)
    results["refused"] = try_refused(world, folder)
    results["overflow"] = try_overflow(world, folder)
    results["bf16"] = try_bf16(
        world, folder
    )  # DeepSpeed sets a global of the process for bf16 and fp16, so they are last
    results["fp16"] = {stage: try_fp16(stage, world, folder) for stage in STAGES}
    results["unclipped fp16"] = try_unclipped_fp16(world, folder)
    return results


if __name__ == "__main__":
    shared, ranks = Path(sys.argv[1]), World.join()
    results = try_compiled(ranks) if sys.argv[2:] == ["compiled"] else try_deepspeed(ranks, shared)
    if ranks.is_main:
        (shared / "results.json").write_text(json.dumps(results))
    ranks.shutdown()
