"""The speed of training beside that of the device, and the memory that it takes."""

import resource
import sys

import torch

from stylefinetune.tracking.run_facts import RunFacts


def measure_speed(images_per_second: float, facts: RunFacts) -> dict[str, float]:
    """Return images_per_second, and tflops and mfu where they are known.

    tflops are the operations of the network's forward and backward pass, of all ranks, in 10^12 a second. mfu, the
    model FLOPs utilization (Chowdhery et al., "PaLM", 2022), is their share of the devices' peak rate.
    """
    speed = {"images_per_second": images_per_second}
    if facts.flops:
        speed["tflops"] = facts.flops * images_per_second / 1e12
        if facts.peak_flops:
            speed["mfu"] = facts.flops * images_per_second / facts.peak_flops
    return speed


def peak_memory(device: torch.device) -> int:
    """Return the largest number of bytes so far: of tensors on a GPU, or of this process in the host's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe_speed(speed: dict[str, float]) -> list[str]:
    """Return the parts of a log line for what `measure_speed` and `peak_memory` returned."""
    parts: list[str] = []
    if "tflops" in speed:
        share = f" ({speed['mfu']:.1%} of the peak)" if "mfu" in speed else ""
        parts.append(f"{speed['tflops']:.3g} TFLOP/s{share}")
    if "peak_memory_bytes" in speed:
        parts.append(f"peak memory {speed['peak_memory_bytes'] / 2**30:.3g} GiB")
    return parts
