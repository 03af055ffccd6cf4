"""The processes of a run: rank, size, device, and the few collectives that the rest of the code uses."""

import dataclasses
import datetime as dt
import os
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage] -- documented all the same
from torch.distributed.rendezvous import rendezvous

from shards.format import first_line
from stylefinetune.distributed.environment import Launch, launcher_gone
from stylefinetune.distributed.heartbeat import Heartbeat
from stylefinetune.distributed.launcher_watch import POLL_SECONDS, watch_launcher
from stylefinetune.distributed.rank_monitor import RankMonitor
from stylefinetune.distributed.rendezvous import agree_on_round
from stylefinetune.errors import LostRankError, RankError, UserError

STALL_SECONDS = 600.0
JOIN_SECONDS = 600.0  # time for the slowest node to start
AGENT_STORE_SECONDS = 60.0  # time to connect to the store of torchrun, which is older than the ranks
STORE_SECONDS = 20  # time limit of one request to the store
COLLECTIVE_THREAD_SECONDS = 0.01  # time that a thread of gloo needs to clean up after a collective


class AsyncMax:
    """An asynchronous maximum over the ranks: each call returns the previous call's result, so no rank waits.

    The process group is on the CPU, so that a call never waits for the GPU's queue.
    """

    def __init__(self, limit: dt.timedelta) -> None:
        group = dist.new_group(backend="gloo", timeout=limit)
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._value = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def start(self, value: int) -> int:
        """Start the maximum of `value` over the ranks and return the maximum of the previous call."""
        highest = self.wait()
        self._value = torch.tensor([value])
        self._work = dist.all_reduce(self._value, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return highest

    def wait(self) -> int:
        """Wait for the last call and return its maximum; may be repeated."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return int(self._value.item())


@dataclasses.dataclass(frozen=True)
class World:
    """This process and the group that it belongs to."""

    rank: int
    size: int  # number of processes that train together
    device: torch.device  # of this process
    monitor: RankMonitor = dataclasses.field(
        default_factory=lambda: RankMonitor(Heartbeat(0, 1, None), STALL_SECONDS, launcher=None)
    )
    async_max: AsyncMax | None = None  # None in a world of one
    restarts: int = 0  # by torchrun after a failure, as each node counts them, summed over the ranks

    @classmethod
    def join(cls, *, deterministic: bool = False, stall_seconds: float = STALL_SECONDS) -> "World":
        """Join the processes that torchrun started (NCCL on GPUs, else gloo); without torchrun, a world of one.

        Args:
            deterministic: use deterministic algorithms only, as CPUs do anyway.
            stall_seconds: how long a rank waits for another.

        Raises:
            RankError: a variable of the environment is wrong, or the ranks can't find each other.
        """
        launch = Launch.read()
        device = _select_device(launch.local_rank)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(mode=True)
        if launch.size > 1:
            with watch_launcher(launch):
                return cls._rendezvous(launch, device, stall_seconds)
        monitor = RankMonitor(Heartbeat(launch.rank, 1, None), stall_seconds, launcher=launch.launcher)
        monitor.start()
        return cls(launch.rank, 1, device, monitor, restarts=launch.restarts)

    @classmethod
    def alone(cls, *, stall_seconds: float = STALL_SECONDS) -> "World":
        """Return a world of one, for a command that every process may run separately, whatever has started it."""
        monitor = RankMonitor(Heartbeat(0, 1, None), stall_seconds, launcher=None)
        monitor.start()
        return cls(0, 1, _select_device(0), monitor)

    @classmethod
    def _rendezvous(cls, launch: Launch, device: torch.device, stall_seconds: float) -> "World":
        # Longer than our own limit, since NCCL kills the process at its timeout without naming the lost rank.
        timeout = dt.timedelta(seconds=max(JOIN_SECONDS, 2 * stall_seconds))
        connect = dt.timedelta(seconds=AGENT_STORE_SECONDS) if launch.has_agent_store else timeout
        try:
            store, rank, size = next(rendezvous("env://", launch.rank, launch.size, timeout=connect))
            store.set_timeout(timeout)
            prefix = agree_on_round(store, rank, size, JOIN_SECONDS)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, store=PrefixStore(prefix, store), rank=rank, world_size=size, timeout=timeout
            )
            heartbeat = Heartbeat(rank, size, PrefixStore(prefix, _connect_store()))
            monitor = RankMonitor(heartbeat, stall_seconds, launcher=launch.launcher)
            monitor.start()
            world = cls(rank, size, device, monitor, AsyncMax(dt.timedelta(seconds=stall_seconds)))
            return dataclasses.replace(world, restarts=int(world.sum(torch.tensor([launch.restarts])).item()))
        except (dist.DistError, TimeoutError) as error:
            time.sleep(POLL_SECONDS)  # a launcher that dies closes its store before its children get another parent
            if launch.is_orphan:
                raise LostRankError(launcher_gone(launch.rank), reports=True) from error
            raise RankError(_join_failure(launch, first_line(error))) from error

    @property
    def heartbeat(self) -> Heartbeat:
        """The published state of this rank."""
        return self.monitor.heartbeat

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def set_activity(self, activity: str, iteration: int) -> None:
        """Record what this rank does from now on; the other ranks report it if this rank is lost."""
        self.heartbeat.set_activity(activity, iteration)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the elementwise sum of `values` over the ranks; the shape is any, but equal on all ranks."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def min(self, values: torch.Tensor) -> torch.Tensor:
        """Return the elementwise minimum of `values` over the ranks; the shape is any, but equal on all ranks."""
        return self._reduce(values, dist.ReduceOp.MIN)

    def _reduce(self, values: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        if self.size == 1:
            return values
        result = values.to(self.device, copy=True)
        dist.all_reduce(result, operation)
        return result

    def exchange(self, values: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """Send parts of `values` to all ranks, and return their parts for this rank in the order of the ranks.

        Args:
            values: on this rank's device; its first dimension is divided, and the other ones are equal on all ranks.
            sent: length of the part for each rank; their sum is the length of `values`.
            received: length of the part of each rank for this one.
        """
        result = values.new_empty(sum(received), *values.shape[1:])
        dist.all_to_all_single(result, values, list(received), list(sent))
        return result

    def agree_on_max(self, value: int) -> int:
        """Submit `value` >= 0 and return the maximum of the ranks' previous values; it is the same on all ranks."""
        return self.async_max.start(value) if self.async_max else value

    def drain_collectives(self) -> None:
        """Wait until no asynchronous collective is running and its thread is idle; call it before a fork.

        The thread takes a lock of CPython 3.11 for a moment. A process that is forked in that moment, for example a
        loader's worker, hangs before its first line.
        """
        if self.async_max:
            self.async_max.wait()
            time.sleep(COLLECTIVE_THREAD_SECONDS)

    def main_first(self, action: Callable[[], None]) -> None:
        """Run `action` on rank 0 while the others wait.

        Raises:
            UserError: the error of `action`, on every rank.
        """
        failure: UserError | None = None
        if self.is_main:
            try:
                action()
            except UserError as error:
                failure = error
        if self.sum(torch.tensor([float(failure is not None)])).item():
            raise failure or UserError("rank 0 has failed")  # rank 0 reports why

    def shutdown(self) -> None:
        """Destroy the process group once every rank is done; the last call of a successful run."""
        self.monitor.close()
        if self.size > 1:
            if self.async_max:
                self.async_max.wait()
            dist.barrier()
            dist.destroy_process_group()


def _select_device(local_rank: int) -> torch.device:
    """Return the GPU of this rank, if the machine has any, and make it the current one.

    Raises:
        RankError: the node has more ranks than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise RankError(f"LOCAL_RANK is {local_rank}, but this node has {count} GPUs; start one rank per GPU")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in Caffe
    return device


def _join_failure(launch: Launch, reason: str) -> str:
    if "EADDRINUSE" in reason:
        port = os.environ["MASTER_PORT"]
        return f"MASTER_PORT is {port}, which can't be used (Address already in use); set another port"
    return f"not all of the {launch.size} ranks could join: {reason}; see the others' output"


def _connect_store() -> TCPStore:
    """Return a separate connection to the ranks' store, for the monitor's thread."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=dt.timedelta(seconds=STORE_SECONDS))
