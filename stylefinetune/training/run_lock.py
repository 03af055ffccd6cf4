"""The lock on a run directory, RUN/.lock: only one process, rank 0 of one run, writes there.

The holder keeps the file locked with flock, which the kernel releases however the process ends. Between processes of
one kernel that is enough. A network file system may apply flock within a node only, refuse it, or keep the flock of a
node that has lost power. So the file also names the holder, who rewrites it every few seconds, and a process on another
node ignores the flock: there the lock is held while the file changes, and free when it stops changing.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Self

from stylefinetune.distributed.environment import is_first_node, launch_id, slurm_job
from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError, UserError, write_error

LOCK_FILE = ".lock"
HEARTBEAT_SECONDS = 5.0  # between two writes of the holder
EXPIRY_SECONDS = 30.0  # without a write, after which another node's lock is free; a busy server delays some
WAIT_SECONDS = 10.0  # for a holder that is about to exit, such as a run that was stopped just now
PREDECESSOR_SECONDS = 90.0  # the same for a holder in whose place torchrun or Slurm has started this process
POLL_SECONDS = 0.5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as the file names it. An empty or damaged file names none."""

    host: str = ""
    pid: int = 0
    job: str | None = None  # its Slurm job
    launch: str = ""  # see `launch_id`
    kernel: str = ""  # differs between nodes, and after a restart of a node

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        host = socket.gethostname()
        kernel = _BOOT_ID.read_text(encoding="utf-8").strip() if _BOOT_ID.exists() else host
        return cls(host, os.getpid(), slurm_job(), launch_id(), kernel)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Return the holder that a file's content names."""
        try:
            record = json.loads(content)
            return cls(**{field.name: record[field.name] for field in dataclasses.fields(cls) if field.name in record})
        except (ValueError, TypeError):
            return cls()

    def encode(self, heartbeat: int) -> bytes:
        """Return the content of the file; `heartbeat` is the number of earlier writes."""
        return json.dumps({**dataclasses.asdict(self), "heartbeat": heartbeat}).encode()

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}" if self.pid else "another process"


class RunLock:
    """The lock on `run_dir`. A thread calls `on_lost` with a message if another process has taken it over."""

    def __init__(
        self,
        run_dir: Path,
        on_lost: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._run_dir = run_dir
        self._path = run_dir / LOCK_FILE
        self._on_lost = on_lost
        self._clock, self._sleep = clock, sleep
        self._own = Holder.current()
        self._file: int | None = None
        self._other, self._is_alive = Holder(), False  # the process that holds the lock
        self._seen: tuple[bytes, float] | None = None  # the content of its file, and since when
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run lock", daemon=True)

    def acquire(self) -> None:
        """Create run_dir if needed and acquire the lock. Wait for a holder that may be about to exit.

        Raises:
            UserError: another process holds it.
            RankError: run_dir can't be created or written.
        """
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"run_dir {self._run_dir} can't be created: {error.strerror}"
            raise RankError(f"{reason}; use another --run_dir") from error
        began = self._clock()
        try:
            while not self._try():
                if self._is_alive and self._clock() - began > self._wait_seconds:
                    raise UserError(
                        f"run_dir {self._run_dir} is in use by {self._other}; wait until it has ended, or use another "
                        "--run_dir"
                    )
                self._sleep(POLL_SECONDS)
        except OSError as error:
            raise write_error(self._path, error.strerror) from error
        self._thread.start()

    @property
    def _wait_seconds(self) -> float:
        is_predecessor = self._own.launch != "" and self._own.launch == self._other.launch
        return PREDECESSOR_SECONDS if is_predecessor else WAIT_SECONDS

    def release(self) -> None:
        """Remove the file if this process holds the lock."""
        self._released.set()
        if self._file is None:
            return
        if self._thread.ident:
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._successor() is None:
                self._path.unlink()
        os.close(self._file)
        self._file = None

    def _try(self) -> bool:
        """Acquire the lock if it is free, and return whether it was."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        has_flock, content = _flock(file), os.pread(file, 4096, 0)
        self._other = Holder.decode(content)
        is_foreign = self._other.kernel not in ("", self._own.kernel)
        if is_foreign or (has_flock is None and self._other.pid):
            os.close(file)
            return self._has_expired(content) and self._replace()
        is_current = has_flock is not False and _is_same_file(file, self._path)
        self._is_alive = has_flock is False
        if is_current:
            self._keep(file)
        else:  # held, or its holder has just removed it
            os.close(file)
        return is_current

    def _has_expired(self, content: bytes) -> bool:
        """Return whether the file of a holder whose flock says nothing has stopped changing."""
        now = self._clock()
        if self._seen is None or self._seen[0] != content:
            self._is_alive = self._seen is not None
            self._seen = content, now
        return now - self._seen[1] > EXPIRY_SECONDS

    def _replace(self) -> bool:
        """Replace the file of a former holder, who may resume and write into it."""
        draft = self._path.with_name(f"{LOCK_FILE}.{self._own.host}.{self._own.pid}")
        file = os.open(draft, os.O_RDWR | os.O_CREAT, 0o644)
        _flock(file)
        self._keep(file)
        draft.replace(self._path)
        return True

    def _keep(self, file: int) -> None:
        self._file = file
        os.ftruncate(file, 0)
        self._write(0)

    def _write(self, heartbeat: int) -> None:
        assert self._file is not None
        os.pwrite(self._file, self._own.encode(heartbeat), 0)
        os.fsync(self._file)  # other nodes must see it now

    def _renew(self) -> None:
        for heartbeat in itertools.count(1):
            if self._released.wait(HEARTBEAT_SECONDS):
                return
            with contextlib.suppress(OSError):  # training meets the same error and reports it
                successor = self._successor()
                if successor is not None:
                    self._on_lost(
                        f"run_dir {self._run_dir} was taken over by {successor} while this process was suspended or "
                        "had no access to it; the other process continues"
                    )
                    return
                self._write(heartbeat)

    def _successor(self) -> Holder | None:
        """Return the process that has taken the lock from this one."""
        # Opened again, because a network file system asks its server for the content only then.
        holder = Holder.decode(self._path.read_bytes())
        return None if holder == self._own else holder


@contextlib.contextmanager
def lock_run(run_dir: Path, world: World, on_lost: Callable[[str], None] = lambda _message: None) -> Generator[None]:
    """Hold the lock on `run_dir` on rank 0; collective.

    Raises:
        UserError: another process holds it, or run_dir can't be written.
    """
    lock = RunLock(run_dir, on_lost)
    try:
        world.main_first(lock.acquire)
        yield
    finally:
        lock.release()


def check_not_in_use(run_dir: Path, world: World) -> None:
    """Check that a run may start in `run_dir`, without creating it. On a later node, its ranks may run already.

    Raises:
        UserError: another process holds the lock.
    """
    if is_first_node() and (run_dir / LOCK_FILE).exists():
        with lock_run(run_dir, world):
            pass


def _flock(file: int) -> bool | None:
    """Try to lock a file; return None if its file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
