"""The processes of a run: rank, size, device, and the few collectives that the rest needs."""

import dataclasses
import datetime as dt
import os
from collections.abc import Callable

import torch
import torch.distributed as dist

from stylefinetune.errors import UserError

COLLECTIVE_TIMEOUT = dt.timedelta(minutes=10)


@dataclasses.dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank: 0 to size - 1.
        size: how many processes train together.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, *, deterministic: bool = False) -> "World":
        """Joins the processes that torchrun started (NCCL on GPUs, else gloo); without torchrun, a world of one.

        Args:
            deterministic: use deterministic algorithms only, which CPUs do anyway.
        """
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in Caffe
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(mode=True)
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
        return cls(rank=int(os.environ.get("RANK", "0")), size=size, device=device)

    @property
    def is_lead(self) -> bool:
        """Says whether this is the one process that writes files and speaks for all."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of `values` (any shape, equal on all ranks) over the ranks."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def lead_first(self, act: Callable[[], None]) -> None:
        """Lets the lead act while the others wait.

        Raises:
            UserError: what `act` raised, on every rank.
        """
        failure: UserError | None = None
        if self.is_lead:
            try:
                act()
            except UserError as error:
                failure = error
        if self.sum(torch.tensor([float(failure is not None)])).item():
            raise failure or UserError("rank 0 has failed")  # which rank 0 tells

    def barrier(self) -> None:
        """Waits until every rank has come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Ends the group once every rank is done; the last act of a run that ended well."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
