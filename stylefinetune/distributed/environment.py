"""Reads and checks the environment variables with which a launcher describes the processes of a run."""

import dataclasses
import os
import re
import socket
import time
from pathlib import Path
from typing import Self

from stylefinetune.errors import LostRankError, RankError

RESOLVE_SECONDS = 20.0  # the name of a node that has just started may be unknown for a while
_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # which it sets besides WORLD_SIZE
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")
_LAUNCHERS = ("python", "torchrun", "pt_")  # the names of their processes begin with one of these


@dataclasses.dataclass(frozen=True)
class Launch:
    """How this process was started.

    Attributes:
        rank: number of this process in the run.
        size: number of processes that train together.
        local_rank: number of this process on its node.
        restarts: by torchrun on this node.
        launcher: process id of torchrun, which must outlive the rank; None without torchrun.
        has_agent_store: whether torchrun has started the store that the ranks share, before the ranks.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0
    launcher: int | None = None
    has_agent_store: bool = False

    @classmethod
    def read(cls) -> Self:
        """Read the variables of torchrun or of another launcher that sets the same ones.

        Raises:
            RankError: a variable is missing or wrong.
            LostRankError: the launcher has exited already.
        """
        _check_threads()
        if "WORLD_SIZE" not in os.environ:
            _check_started_once()
        size = _read_integer("WORLD_SIZE", 1, 1)
        rank, local_rank = _read_integer("RANK", 0, 0), _read_integer("LOCAL_RANK", 0, 0)
        if rank >= size:
            given = f"WORLD_SIZE is {size}" if "WORLD_SIZE" in os.environ else "WORLD_SIZE is not set"
            raise RankError(f"RANK is {rank}, but {given}; the ranks are numbered from 0 to WORLD_SIZE - 1")
        if size > 1:
            _check_rendezvous(size)
        return cls(
            rank,
            size,
            local_rank,
            _read_integer("TORCHELASTIC_RESTART_COUNT", 0, 0),
            _find_launcher(rank) if "TORCHELASTIC_RUN_ID" in os.environ else None,
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )

    @property
    def is_orphan(self) -> bool:
        """Whether the launcher has exited."""
        return self.launcher not in (None, os.getppid())


def launch_id() -> str:
    """Return what a process has in common with those that torchrun or Slurm starts in its place; empty without them."""
    job, run = slurm_job(), os.environ.get("TORCHELASTIC_RUN_ID")
    if job:
        return f"Slurm job {job}"
    return f"torchrun {socket.gethostname()} {os.getppid()}" if run == "none" else run or ""


def slurm_job() -> str | None:
    """Return the id of the Slurm job that this process belongs to."""
    return os.environ.get("SLURM_JOB_ID")


def was_requeued() -> bool:
    """Return whether Slurm has started this process's job before."""
    return _read_integer("SLURM_RESTART_COUNT", 0, 0) > 0


def is_first_node() -> bool:
    """Return whether the launch script that started this process starts the ranks of the first node."""
    return os.environ.get("NODE_RANK", "0") == "0"


def _read_integer(name: str, default: int, minimum: int, maximum: int | None = None) -> int:
    text = os.environ.get(name, str(default)).strip()
    allowed = f"from {minimum} to {maximum}" if maximum else f"of at least {minimum}"
    if not re.fullmatch(r"\d{1,9}", text) or not minimum <= int(text) <= (maximum or int(text)):
        raise RankError(f"{name} is {text or 'empty'}; it must be a number {allowed}")
    return int(text)


def _check_threads() -> None:
    text = os.environ.get("OMP_NUM_THREADS") or "1"
    if not re.fullmatch(r"\s*0*[1-9]\d*(\s*,\s*0*[1-9]\d*)*\s*", text):
        raise RankError(f"OMP_NUM_THREADS is {text}; it must be a number of threads, at least 1")


def _check_started_once() -> None:
    """Check that no launcher without torchrun's variables has started several processes, all of which would be rank 0.

    Raises:
        RankError: mpirun or srun has.
    """
    sizes = {name: _read_integer(name, 1, 0) for name in _MPI_SIZES} | _slurm_tasks()
    name, size = max(sizes.items(), key=lambda item: item[1])
    if size > 1:
        raise RankError(
            f"{name} is {size}, but WORLD_SIZE is not set: these processes would all write the same run; start one "
            "process per node with torchrun (launch/train.sh, slurm/finetune.sh), or set WORLD_SIZE=1 if each process "
            "has a separate run_dir"
        )


def _slurm_tasks() -> dict[str, int]:
    """Return the number of tasks that srun has started; the script of a job, or a shell of salloc, is one process."""
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return {"SLURM_NTASKS": _read_integer("SLURM_STEP_NUM_TASKS", 1, 0)}  # the same in a step
    is_job_script = os.environ.get("ENVIRONMENT") == "BATCH"
    if "SLURM_PROCID" not in os.environ or is_job_script:
        return {}
    return {"SLURM_NTASKS": _read_integer("SLURM_NTASKS", 1, 0)}


def _check_rendezvous(size: int) -> None:
    """Check the variables with which `size` ranks find each other.

    Raises:
        RankError: one is missing or wrong, or the name of the first node stays unknown.
    """
    missing = [name for name in _TORCHRUN if not os.environ.get(name)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise RankError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} {are} not set; start the ranks with torchrun, which sets "
            "them, or unset WORLD_SIZE to run one process"
        )
    _read_integer("MASTER_PORT", 0, 1, 65535)
    await_address(os.environ["MASTER_ADDR"])


def await_address(address: str) -> None:
    """Wait until a name, the value of MASTER_ADDR, can be resolved.

    Raises:
        RankError: it can't be resolved within RESOLVE_SECONDS.
    """
    end = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(address, None)
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end:
                reason = error.strerror if isinstance(error, OSError) else "not a host name"
                raise RankError(
                    f"MASTER_ADDR is {address}, which can't be resolved ({reason}); set it to the name or address of "
                    "rank 0's node"
                ) from error
            time.sleep(1)
        else:
            return


def launcher_gone(rank: int) -> str:
    """Return the message for a rank whose launcher has exited."""
    return f"the launcher of rank {rank} on {socket.gethostname()} is gone"


def _find_launcher(rank: int) -> int:
    """Return the process id of the launcher.

    Raises:
        LostRankError: it has exited: the parent is process 1, and that is another program.
    """
    parent = os.getppid()
    comm = Path(f"/proc/{parent}/comm")
    if parent == 1 and comm.exists() and not comm.read_text(encoding="utf-8").startswith(_LAUNCHERS):
        raise LostRankError(launcher_gone(rank), reports=True)
    return parent
