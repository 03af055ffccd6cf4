"""The processes of a run: rank, size, device, and the few collectives that the rest needs."""

import dataclasses
import datetime as dt
import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage] -- documented all the same
from torch.distributed.rendezvous import rendezvous

from stylefinetune.distributed.heartbeat import Heartbeat
from stylefinetune.distributed.rendezvous import agree_on_round
from stylefinetune.errors import RankError, UserError

STALL_SECONDS = 600.0
JOIN_SECONDS = 600.0  # until the slowest node has come
STORE_SECONDS = 20
SETTLE_SECONDS = 0.01


class AsyncMax:
    """A vote of all ranks whose result is read a turn later, so that no rank waits for another.

    Its group is on the CPU, apart from the device's own queue, so that asking never waits for the device.
    """

    def __init__(self, limit: dt.timedelta) -> None:
        group = dist.new_group(backend="gloo", timeout=limit)
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._vote = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def start(self, value: int) -> int:
        """Casts `value` and returns the highest one of the turn before."""
        highest = self.wait()
        self._vote = torch.tensor([value])
        self._work = dist.all_reduce(self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return highest

    def wait(self) -> int:
        """Waits for the last vote and returns the highest value cast, again if asked again."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return int(self._vote.item())


@dataclasses.dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank: 0 to size - 1.
        size: how many processes train together.
        device: where this process computes.
        heartbeat: what each is doing; alone, this process tells nobody.
        async_max: None in a world of one.
        restarts: how often torchrun has started ranks anew after one failed; each node counts those it saw, and this
            is the sum over the ranks.
    """

    rank: int
    size: int
    device: torch.device
    heartbeat: Heartbeat = dataclasses.field(
        default_factory=lambda: Heartbeat(0, 1, None, STALL_SECONDS, launched=False)
    )
    async_max: AsyncMax | None = None
    restarts: int = 0

    @classmethod
    def join(cls, *, deterministic: bool = False, stall_seconds: float = STALL_SECONDS) -> "World":
        """Joins the processes that torchrun started (NCCL on GPUs, else gloo); without torchrun, a world of one.

        Args:
            deterministic: use deterministic algorithms only, which CPUs do anyway.
            stall_seconds: how long a rank waits for another.
        """
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in Caffe
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(mode=True)
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        launched, restarts = "TORCHELASTIC_RUN_ID" in os.environ, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        limit = dt.timedelta(seconds=stall_seconds)
        if size == 1:
            heartbeat = Heartbeat(rank, size, None, stall_seconds, launched=launched)
            heartbeat.start()
            return cls(rank, size, device, heartbeat, restarts=restarts)
        try:
            # A longer limit than our own: at its end NCCL kills the process without saying whom it waited for.
            longer = dt.timedelta(seconds=max(JOIN_SECONDS, 2 * stall_seconds))
            found, rank, size = next(rendezvous("env://", rank, size, timeout=longer))
            start = agree_on_round(found, rank, size, JOIN_SECONDS)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore(start, found),
                rank=rank,
                world_size=size,
                timeout=longer,
            )
            heartbeat = Heartbeat(rank, size, PrefixStore(start, _store()), stall_seconds, launched=launched)
            heartbeat.start()
            world = cls(rank, size, device, heartbeat, AsyncMax(limit))
            return dataclasses.replace(world, restarts=int(world.sum(torch.tensor([restarts])).item()))
        except (dist.DistError, TimeoutError) as error:
            reason = str(error).splitlines()[0]
            raise RankError(f"not all of the {size} ranks came together: {reason}; see what the others say") from error

    @property
    def is_main(self) -> bool:
        """Says whether this is the one process that writes files and speaks for all."""
        return self.rank == 0

    def set_activity(self, act: str, iteration: int) -> None:
        """Notes what this rank does from now on, for the others to know should it never end."""
        self.heartbeat.set_activity(act, iteration)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of `values` (any shape, equal on all ranks) over the ranks."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def min(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the least of each of `values` (any shape, equal on all ranks) over the ranks."""
        return self._reduce(values, dist.ReduceOp.MIN)

    def _reduce(self, values: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        if self.size == 1:
            return values
        result = values.to(self.device, copy=True)
        dist.all_reduce(result, operation)
        return result

    def agree_on_max(self, value: int) -> int:
        """Casts `value`, 0 or more, and returns the highest of all ranks' last ones, which all ranks get alike."""
        return self.async_max.start(value) if self.async_max else value

    def drain_collectives(self) -> None:
        """Waits until no collective is under way, nor its thread busy with what it leaves.

        Such a thread takes a lock of CPython 3.11's for a moment, and a process forked in that moment, as loaders are,
        hangs before its first line.
        """
        if self.async_max:
            self.async_max.wait()
            time.sleep(SETTLE_SECONDS)

    def main_first(self, act: Callable[[], None]) -> None:
        """Lets the lead act while the others wait.

        Raises:
            UserError: what `act` raised, on every rank.
        """
        failure: UserError | None = None
        if self.is_main:
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

    def shutdown(self) -> None:
        """Ends the group once every rank is done; the last act of a run that ended well."""
        self.heartbeat.close()
        if self.size > 1:
            if self.async_max:
                self.async_max.wait()
            dist.barrier()
            dist.destroy_process_group()


def _store() -> TCPStore:
    """Returns a connection of its own to the store that the ranks met through."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=dt.timedelta(seconds=STORE_SECONDS))
