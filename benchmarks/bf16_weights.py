"""Measures what a bf16 copy of the weights would save: `python -m benchmarks.bf16_weights [--device cuda]`.

With train.precision bf16, a step converts all weights to bf16 for the forward pass, and the gradients of these to fp32
for the update. Compares ways to do both for tensors of the sizes of CaffeNet's, in turn:

- separate: as training does it: convert the weights, convert the gradients, and update with PyTorch's fused SGD
- copy: one compiled pass over the fp32 gradients updates the weights and writes their bf16 copy; the gradients are
  converted before
- one pass: the same compiled pass reads the bf16 gradients itself

Prints the medians in milliseconds, of the time and on a CPU of the processor time of all threads.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from stylefinetune.config.schema import Config
from stylefinetune.engines.allocator import keep_freed_memory
from stylefinetune.models.build import build_model

RATE, MOMENTUM, DECAY = 1e-3, 0.9, 5e-4
WARM_UP = 3


def update(
    weights: torch.Tensor, copy: torch.Tensor, gradient: torch.Tensor, momentum: torch.Tensor, rate: torch.Tensor
) -> None:
    """Update weights as Caffe's SGD does, and write their bf16 copy."""
    momentum.mul_(MOMENTUM).add_(rate * (gradient.float() + DECAY * weights))
    weights.sub_(momentum)
    copy.copy_(weights)


def build_programs(device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the programs, which share their weights and gradients."""
    net = build_model(Config().model, 20, [(227, 227)], seed=0).to(device)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1, momentum=MOMENTUM, dampening=1 - RATE, weight_decay=DECAY, fused=True
    )
    weights = [parameter.detach().view(-1) for parameter in net.parameters()]
    momenta = [torch.zeros_like(each) for each in weights]
    copies = [each.bfloat16() for each in weights]
    gradients = [torch.full_like(parameter, 1e-6, dtype=torch.bfloat16) for parameter in net.parameters()]
    rate = torch.tensor(RATE, device=device)
    compiled = torch.compile(update, dynamic=True)  # once for tensors of all sizes

    def run_separate() -> None:
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.detach().bfloat16()
            parameter.grad = gradient.float()
        optimizer.step()

    def run_one_pass(*, converts: bool = False) -> None:
        for weight, copy, gradient, momentum in zip(weights, copies, gradients, momenta, strict=True):
            compiled(weight, copy, (gradient.float() if converts else gradient).view(-1), momentum, rate)

    return {"separate": run_separate, "copy": lambda: run_one_pass(converts=True), "one pass": run_one_pass}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bf16_weights", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    keep_freed_memory()
    programs = build_programs(options.device)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(WARM_UP + options.rounds):
        for name, program in programs.items():
            began, spent = time.perf_counter(), time.process_time()
            program()
            if options.device.type == "cuda":
                torch.cuda.synchronize()
            found[name].append((time.perf_counter() - began, time.process_time() - spent))
    print("| program | ms | processor ms |\n|---|---|---|")
    for name, measured in found.items():
        milliseconds = (f"{1000 * statistics.median(values):.2f}" for values in zip(*measured[WARM_UP:], strict=True))
        print(f"| {name} | {' | '.join(milliseconds)} |")


if __name__ == "__main__":
    main()
