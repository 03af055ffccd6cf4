"""Predicts the step on 8 and 64 GPUs from assumptions: `python -m benchmarks.scaling_model [--step_ms 3.0] ...`.

A model on paper, not a measurement. A step on n GPUs with b pictures each takes

    forward + max(backward, ready * backward + sent) + last + update

- forward and backward: a third and two thirds of the time of one GPU for b pictures, without the update
- sent: the time of all all-reduces except the last. Each of n ranks sends 2 * (n - 1) / n of the gradient's bytes at
  the bus bandwidth of all-reduces, and each bucket has a latency
- ready: the fraction of the backward pass after which the gradients of fc6 and fc7, 96 % of the bytes, are known
- last: the all-reduce of the last bucket, the gradients of all convolutions
- update: one read of weights, gradients and momenta, and one write of weights and momenta, at the memory's bandwidth

`python -m benchmarks.scaling --trace` shows the same order of events on two CPU ranks.
"""

import argparse
import dataclasses
import functools

import torch

from stylefinetune.config.schema import Config
from stylefinetune.models.build import build_model

CLASSES, SIDE = 20, 227
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes at which DistributedDataParallel closes a bucket


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The hardware and the network.

    Attributes:
        step: seconds of a step on one GPU with `pictures` pictures, without the update.
        pictures: see `step`.
        ready: see the module's docstring.
        weights: bytes of all weights, fp32.
        gradients: bytes of each bucket, in the order in which they are sent.
        memory: bytes per second of the GPU's memory.
    """

    step: float
    pictures: int
    ready: float
    weights: int
    gradients: list[int]
    memory: float

    def step_seconds(self, gpus: int, pictures: int, bandwidth: float, latency: float) -> tuple[float, float]:
        """Return the seconds of a step, and those in which the GPU only waits for all-reduces.

        Args:
            gpus: number of GPUs.
            pictures: pictures of each.
            bandwidth: bus bandwidth of all-reduces, bytes per second.
            latency: seconds of an all-reduce without bytes.
        """
        compute = self.step * pictures / self.pictures
        forward, backward = compute / 3, compute * 2 / 3
        sent = [latency + 2 * (gpus - 1) / gpus * size / bandwidth if gpus > 1 else 0.0 for size in self.gradients]
        update = 5 * self.weights / self.memory
        with_sending = max(backward, self.ready * backward + sum(sent[:-1])) + sent[-1]
        return forward + with_sending + update, with_sending - backward


@functools.cache
def bucket_bytes(element: int) -> list[int]:
    """Return the bytes of DDP's buckets of the full-size CaffeNet, whose gradients have `element` bytes a number."""
    net = build_model(Config().model, CLASSES, [(SIDE, SIDE)], seed=0)
    sizes = [0]
    for parameter in reversed(list(net.parameters())):
        sizes[-1] += parameter.numel()
        if sizes[-1] * 4 >= (BUCKET if len(sizes) > 1 else FIRST_BUCKET):
            sizes.append(0)
    return [size * element for size in sizes if size]


def main() -> None:
    """Run the command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_model", description=summary)
    parser.add_argument("--step_ms", type=float, default=3.0, help="of one GPU with 50 pictures, without the update")
    parser.add_argument("--ready", type=float, default=0.15)
    parser.add_argument("--memory_gbs", type=float, default=3350.0, help="an H100's")
    parser.add_argument("--node_gbs", type=float, default=350.0, help="bus bandwidth of 8 GPUs with NVLink")
    parser.add_argument("--network_gbs", type=float, default=320.0, help="of 8 nodes with 8 x 400 Gbit/s each")
    parser.add_argument("--slow_network_gbs", type=float, default=20.0, help="of 8 nodes with 1 x 200 Gbit/s each")
    options = parser.parse_args()
    clusters = {
        "1 GPU": (1, options.node_gbs, 0.0),
        "8 GPUs, NVLink": (8, options.node_gbs, 20e-6),
        "64 GPUs, 8 x 400 Gbit/s a node": (64, options.network_gbs, 60e-6),
        "64 GPUs, 200 Gbit/s a node": (64, options.slow_network_gbs, 60e-6),
    }
    print(f"torch {torch.__version__}; buckets in MB: {[round(size / 1e6, 1) for size in bucket_bytes(4)]}\n")
    print("| cluster | gradients | pictures a GPU | ms | waiting ms | images/s | efficiency |")
    print("|---|---|---|---|---|---|---|")
    for pictures in (50, 6):
        for name, (gpus, gbs, latency) in clusters.items():
            for element, kind in ((4, "fp32"), (2, "bf16")) if gpus > 1 else ((4, "fp32"),):
                model = Assumptions(
                    step=options.step_ms / 1000,
                    pictures=50,
                    ready=options.ready,
                    weights=sum(bucket_bytes(4)),
                    gradients=bucket_bytes(element),
                    memory=options.memory_gbs * 1e9,
                )
                alone, _ = model.step_seconds(1, pictures, 1.0, 0.0)
                seconds, waiting = model.step_seconds(gpus, pictures, gbs * 1e9, latency)
                rate = gpus * pictures / seconds
                cells = (name, kind, pictures, f"{seconds * 1000:.2f}", f"{waiting * 1000:.2f}", f"{rate:,.0f}")
                print(f"| {' | '.join(map(str, cells))} | {alone / seconds:.0%} |")


if __name__ == "__main__":
    main()
