"""Checks that the processes of a node can add tensors up, as training adds gradients."""

import torch

from stylefinetune.distributed.bandwidth import AllReduceError, measure_all_reduce
from stylefinetune.doctor.finding import Finding

_SLOW = 2e9  # bytes a second between GPUs; a PCIe 3 bus with 16 lanes has about 12e9
_SECONDS = 90.0


def check_all_reduce(seconds: float = _SECONDS) -> Finding:
    """Check an all-reduce: NCCL on all GPUs of the node, or gloo between two processes if it has none."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    backend, processes, size = ("nccl", gpus, 256 * 2**20) if gpus else ("gloo", 2, 16 * 2**20)
    name = {"nccl": "NCCL", "gloo": "gloo"}[backend]
    try:
        speed = measure_all_reduce(backend, processes, size, seconds)
    except AllReduceError as error:
        remedy = {
            "nccl": "run again with NCCL_DEBUG=INFO; NCCL_P2P_DISABLE=1 or NCCL_SHM_DISABLE=1 may help",
            "gloo": "check that the host's name resolves, or set GLOO_SOCKET_IFNAME=lo",
        }[backend]
        return Finding(name, "failed", str(error), remedy)
    if processes == 1:
        return Finding(name, "ok", "works on the only GPU")
    found = (
        f"all-reduce of {size / 2**20:.0f} MiB on {processes} {'GPUs' if gpus else 'processes'}: {speed / 1e9:.2f} GB/s"
    )
    if gpus and speed < _SLOW:
        return Finding(name, "warning", found, "see nvidia-smi topo -m; GPUs behind different CPUs are slow")
    return Finding(name, "ok", found)
