"""One aria2 daemon, driven over JSON-RPC, that downloads every URL it is given to an outcome."""

import dataclasses
import datetime as dt
import re
import time
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from shards.aria2 import Daemon
from shards.config import AssembleConfig
from shards.hosts import Request, Turns
from shards.index import ShardsError
from shards.outcomes import PASSING, Outcome, Status
from shards.traces import Trace

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before asking again; the first doubles with each attempt
_WATCH_INTERVAL = 1.0  # seconds between looks at what is on its way
_LOWEST_SPEED = 1024  # bytes a second, of what has had twice the time-out; aria2 counts them by 16 KiB
_STATUS_KEYS = ["gid", "status", "errorCode", "errorMessage", "completedLength", "totalLength"]
# Of a URL, only these and letters, digits, - . _ stay as they are: what aria2 would encode itself is encoded before.
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"

# aria2's exit codes (manual, "Exit status"); 3, 22 and 29 are told apart by their HTTP status.
_STATUS_OF_CODE = {
    2: Status.TIMEOUT,
    3: Status.NOT_FOUND,
    5: Status.TOO_SLOW,
    6: Status.REFUSED,
    17: Status.TOO_LARGE,  # a write refused by the file size limit
    19: Status.DNS,
    23: Status.TOO_MANY_REDIRECTS,
    24: Status.FORBIDDEN,
}
_STATUS_OF_HTTP = {
    401: Status.FORBIDDEN,
    402: Status.FORBIDDEN,
    403: Status.FORBIDDEN,
    404: Status.NOT_FOUND,
    407: Status.FORBIDDEN,
    408: Status.TIMEOUT,
    410: Status.GONE,
    429: Status.RATE_LIMITED,
    451: Status.FORBIDDEN,
}
_LOCAL_FAILURES = {9, 15, 16, 18}  # no room, or a file or folder of ours that can't be opened or made


@dataclasses.dataclass(frozen=True)
class Download:
    """The end of one request.

    Attributes:
        row: the list's row.
        outcome: KEPT where a body came: whether it is a picture is for others to say.
        body: the file that holds it, or None.
    """

    row: int
    outcome: Outcome
    body: Path | None


@dataclasses.dataclass
class _InFlight:
    """A download that aria2 has, and what we decided about it, if anything."""

    request: Request
    started: float
    verdict: Status | None = None

    @property
    def name(self) -> str:
        return f"{self.request.row}.{self.request.attempts}"


class Downloader:
    """Downloads what it is given, as often as the config says, within a `with`.

    The daemon starts with the first request and ends with the `with`.

    Only http and https URLs may be added.
    """

    def __init__(self, config: AssembleConfig, folder: Path) -> None:
        """Prepares a downloader whose daemon keeps its own files in `folder`."""
        self._config = config
        self._daemon = Daemon(config, folder)
        self._turns = Turns(config.per_host)
        self._in_flight: dict[str, _InFlight] = {}
        self._to_forget: list[str] = []
        self._gids = 0
        self._next_watch = 0.0

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.end()

    def add(self, requests: Iterable[Request]) -> None:
        """Queues requests; each comes back from `poll` once.

        Raises:
            ShardsError: there is no aria2c, or it doesn't start.
        """
        for request in requests:
            self._turns.put(request)
        if self.is_busy:
            self._daemon.start()

    @property
    def is_busy(self) -> bool:
        """Tells whether any request hasn't come back yet."""
        return bool(self._in_flight) or bool(len(self._turns))

    def poll(self, timeout: float) -> list[Download]:
        """Returns what has ended since the last call, after waiting up to `timeout` seconds for a first one.

        Raises:
            ShardsError: the daemon has ended, or can't write.
        """
        now = time.monotonic()
        watched = self._watch(now)
        added = self._turns.take(self._config.connections - len(self._in_flight), now)
        if not added and not self._in_flight:
            time.sleep(timeout)
            return []
        calls = [("removeDownloadResult", [gid]) for gid in self._to_forget]
        self._to_forget = []
        calls += [("forceRemove", [gid]) for gid in watched]
        first_added = len(calls)
        gids = [self._begin(request, now) for request in added]
        calls += [("addUri", [[_quote(self._in_flight[gid].request.url)], self._options(gid)]) for gid in gids]
        # Results leave the daemon as soon as they have been read, so that this list is always short.
        answers = self._daemon.call([*calls, ("tellStopped", [0, 2 * self._config.connections, _STATUS_KEYS])])
        ended: list[Download | None] = []
        for gid, answer in zip(gids, answers[first_added:], strict=False):
            if isinstance(answer, dict):  # a fault
                ended.append(self._finish(gid, Status.UNSUPPORTED_URL, str(answer.get("message")), Trace()))
        ended += [self._collect(result) for result in answers[-1][0]]
        downloads = [download for download in ended if download is not None]
        if not downloads:
            self._daemon.log.wait_for_stop(timeout)
        return downloads

    def _begin(self, request: Request, now: float) -> str:
        self._gids += 1
        gid = f"{self._gids:016x}"
        self._in_flight[gid] = _InFlight(dataclasses.replace(request, attempts=request.attempts + 1), now)
        return gid

    def _options(self, gid: str) -> dict[str, str]:
        flight = self._in_flight[gid]
        return {"gid": gid, "dir": str(flight.request.folder), "out": flight.name}

    def _watch(self, now: float) -> list[str]:
        """Decides once a second what is too slow, or announced too much, and returns its gids."""
        if now < self._next_watch or not self._in_flight:
            return []
        self._next_watch = now + _WATCH_INTERVAL
        ended: list[str] = []
        for active in self._daemon.call([("tellActive", [["gid", "completedLength", "totalLength"]])])[0][0]:
            flight = self._in_flight[active["gid"]]
            seconds, came = now - flight.started, int(active["completedLength"])
            if int(active["totalLength"]) > self._config.max_bytes:
                flight.verdict = Status.TOO_LARGE
            elif seconds > self._config.deadline:
                flight.verdict = Status.TIMEOUT
            elif seconds > 2 * self._config.timeout and came < _LOWEST_SPEED * seconds:
                flight.verdict = Status.TOO_SLOW
            if flight.verdict:
                ended.append(active["gid"])
        return ended

    def _collect(self, result: dict[str, str]) -> Download | None:
        """Judges a download that aria2 has stopped."""
        gid = result["gid"]
        self._to_forget.append(gid)
        flight = self._in_flight.get(gid)
        if flight is None:
            return None
        trace = self._daemon.log.take(_quote(flight.request.url))
        code = int(result.get("errorCode") or 0)
        message = " ".join(result.get("errorMessage", "").split())
        if result["status"] == "complete":
            return self._finish(gid, Status.KEPT, "", trace)
        if code in _LOCAL_FAILURES:
            raise ShardsError(
                f"aria2c can't write into {self._config.out}: {message}; mend it, and the same command goes on"
            )
        status = flight.verdict or _judge(code, message, result)
        if status is Status.TOO_LARGE:
            message = f"over max_bytes {self._config.max_bytes}"
        elif flight.verdict:
            message = f"{result['completedLength']} bytes in {time.monotonic() - flight.started:.0f} s"
        return self._finish(gid, status, message, trace)

    def _finish(self, gid: str, status: Status, message: str, trace: Trace) -> Download | None:
        """Returns the request's end, or None where it is worth asking again."""
        flight = self._in_flight.pop(gid)
        self._turns.done(flight.request)
        now = time.monotonic()
        if status in PASSING and flight.request.attempts < self._config.attempts:
            pause = max(_FIRST_PAUSE * 2 ** (flight.request.attempts - 1), trace.retry_after or 0.0)
            self._turns.put(flight.request, now + min(pause, _LONGEST_PAUSE))
            return None
        body = flight.request.folder / flight.name
        http = re.search(r"status=(\d{3})", message)
        outcome = Outcome(
            status,
            dt.datetime.now(dt.UTC),
            http_status=int(http[1]) if http else trace.http_status,
            attempts=flight.request.attempts,
            final_url=trace.final_url or flight.request.url,
            seconds=now - flight.started,
            message=message,
        )
        return Download(flight.request.row, outcome, body if status is Status.KEPT else None)


def _judge(code: int, message: str, result: dict[str, str]) -> Status:
    http = re.search(r"status=(\d{3})", message)
    if http:
        status = int(http[1])
        return Status.SERVER_ERROR if status >= 500 else _STATUS_OF_HTTP.get(status, Status.HTTP_ERROR)
    if code == 1:  # aria2's "unknown": the connection wasn't made, or ended; or a redirect led nowhere
        if "Redirect to" in message:
            return Status.DOWNLOAD_ERROR
        return Status.INCOMPLETE if int(result["totalLength"]) else Status.REFUSED
    return _STATUS_OF_CODE.get(code, Status.DOWNLOAD_ERROR)


def _quote(url: str) -> str:
    return urllib.parse.quote(url, safe=_URL_SAFE)
