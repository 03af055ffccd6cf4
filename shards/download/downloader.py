"""One aria2 daemon, driven over JSON-RPC, that downloads every URL it is given to an outcome."""

import collections
import contextlib
import dataclasses
import datetime as dt
import re
import time
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from shards.config.schema import AssembleConfig
from shards.download.aria2_daemon import Aria2Daemon, proxy_of
from shards.download.aria2_log import RequestTrace
from shards.download.classify import classify, http_status_of, is_local_failure, message_of
from shards.download.host_queue import MAX_DELAY, HostQueue, Request
from shards.download.url_rewrite import rewrite
from shards.errors import ShardsError
from shards.format.outcomes import TRANSIENT_STATUSES, Outcome, Status

_FIRST_DELAY = 1.0  # seconds before asking a URL again; doubled with each attempt
_REFUSALS_PER_ATTEMPT = 3  # refusals in a row, times `attempts`, after which a host is given up
_WATCH_INTERVAL = 1.0  # seconds between looks at what is on its way
_LOWEST_SPEED = 1024  # bytes a second, of what has had twice the time-out; aria2 counts them by 16 KiB
_STATUS_KEYS = ["gid", "status", "errorCode", "errorMessage", "completedLength", "totalLength"]
# Of a URL, only these and letters, digits, - . _ stay as they are: what aria2 would encode itself is encoded before.
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"
_HOST = re.compile(r"//(?:[^/?#]*@)?([^/?#:]+)")
_NO_ANSWER = {Status.DNS, Status.REFUSED, Status.TIMEOUT}
_MAX_UNANSWERED = (
    8  # times in a row that a host gave no answer, after which its URLs are rewritten without asking it first
)
_PROXY_REFUSALS = 16  # of the first answers: all of them 407 means that no other will come


@dataclasses.dataclass(frozen=True)
class DownloadResult:
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
        self._daemon = Aria2Daemon(config, folder)
        self._turns = HostQueue(config.per_host, config.per_host_rate, _REFUSALS_PER_ATTEMPT * config.attempts)
        self._proxy = proxy_of(config)
        self._proxy_refusals = 0
        self._is_proxy_proven = self._proxy is None
        self._silences: collections.Counter[str] = collections.Counter()  # in a row, by host
        self._in_flight: dict[str, _InFlight] = {}
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

    def poll(self, timeout: float) -> list[DownloadResult]:
        """Returns what has ended since the last call, after waiting up to `timeout` seconds for a first one.

        Raises:
            ShardsError: the daemon has ended, or can't write.
        """
        now = time.monotonic()
        ended: list[DownloadResult | None] = [self._end_unasked(request) for request in self._turns.take_given_up()]
        watched = self._watch(now)
        added = self._take(now)
        if not added and not self._in_flight:
            if not ended:
                time.sleep(timeout)
            return [download for download in ended if download is not None]
        calls = [("forceRemove", [gid]) for gid in watched]
        first_added = len(calls)
        gids = [self._begin(request, now) for request in added]
        calls += [("addUri", [[_quote(self._in_flight[gid].request.url)], self._options(gid)]) for gid in gids]
        # All results leave the daemon as they are read; it does nothing else between the calls of one request.
        calls += [("tellStopped", [0, 2 * self._config.connections, _STATUS_KEYS]), ("purgeDownloadResult", [])]
        answers = self._daemon.call(calls)
        for gid, answer in zip(gids, answers[first_added:], strict=False):
            if isinstance(answer, dict):  # a fault
                ended.append(self._finish(gid, Status.UNSUPPORTED_URL, str(answer.get("message")), RequestTrace()))
        ended += [self._collect(result) for result in answers[-2][0]]
        downloads = [download for download in ended if download is not None]
        if not downloads:
            self._daemon.log.wait_for_stop(timeout)
        return downloads

    def _take(self, now: float) -> list[Request]:
        """Returns the requests whose turn it is, but for those that are sent elsewhere before their host is asked."""
        taken: list[Request] = []
        for request in self._turns.take(self._config.connections - len(self._in_flight), now):
            is_dead = bool(self._config.rewrite) and self._silences[request.host] >= _MAX_UNANSWERED
            moved = self._move(request) if is_dead else None
            if moved:
                self._turns.done(request)
                self._turns.put(moved)
            else:
                taken.append(request)
        return taken

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

    def _collect(self, result: dict[str, str]) -> DownloadResult | None:
        """Judges a download that aria2 has stopped."""
        gid = result["gid"]
        flight = self._in_flight[gid]
        if is_local_failure(result):
            words = message_of(result)
            raise ShardsError(
                f"aria2c can't write into {self._config.out}: {words}; mend it, and the same command goes on"
            )
        trace = self._daemon.log.take(_quote(flight.request.url))
        status, message = classify(result, trace, self._config)
        http_status = http_status_of(result, trace)
        if flight.verdict and result["status"] != "complete" and status is not Status.REDIRECT_REFUSED:
            status = flight.verdict
            message = f"{result['completedLength']} bytes in {time.monotonic() - flight.started:.0f} s"
        if status is Status.TOO_LARGE:
            message = f"over max_bytes {self._config.max_bytes}"
        if http_status == 407:
            self._note_proxy_refusal()
            status = Status.PROXY_REFUSED if self._proxy else Status.FORBIDDEN
        elif http_status:
            self._is_proxy_proven = True
        return self._finish(gid, status, message, trace, http_status)

    def _note_proxy_refusal(self) -> None:
        """Counts a 407.

        Raises:
            ShardsError: nothing but 407 has come so far.
        """
        self._proxy_refusals += 1
        if not self._is_proxy_proven and self._proxy_refusals >= _PROXY_REFUSALS:
            raise ShardsError(
                f"the proxy {self._proxy} wants other credentials (407); give --proxy http://user:password@host:port, "
                "and the same command goes on"
            )

    def _finish(
        self, gid: str, status: Status, message: str, trace: RequestTrace, http_status: int | None = None
    ) -> DownloadResult | None:
        """Returns the request's end, or None where it is worth asking again."""
        flight = self._in_flight.pop(gid)
        request, now = flight.request, time.monotonic()
        moved = None
        if self._is_silence(status, http_status, trace):
            self._silences[request.host] += 1
            moved = self._move(request)
        else:
            self._silences.pop(request.host, None)
        if not moved:
            self._note_mood(flight, status, http_status, trace, now)
        self._turns.done(request)
        if status is not Status.KEPT:
            (request.folder / flight.name).unlink(missing_ok=True)
        if moved:
            self._turns.put(moved)
            return None
        asked = request.attempts - (request.rewritten_after or 0)  # of this URL
        if status in TRANSIENT_STATUSES and asked < self._config.attempts:
            pause = max(_FIRST_DELAY * 2 ** (asked - 1), trace.retry_after or 0.0)
            self._turns.put(dataclasses.replace(request, ending=status), now + min(pause, MAX_DELAY))
            return None
        outcome = Outcome(
            status,
            dt.datetime.now(dt.UTC),
            http_status=http_status,
            attempts=request.attempts,
            final_url=trace.final_url or request.url,
            seconds=now - flight.started,
            message=message,
        )
        return DownloadResult(request.row, outcome, request.folder / flight.name if status is Status.KEPT else None)

    def _end_unasked(self, request: Request) -> DownloadResult:
        """Returns the end of a request whose host has been given up."""
        message = f"not asked for{' again' if request.attempts else ''}: its host refused too often in a row"
        outcome = Outcome(
            request.ending,
            dt.datetime.now(dt.UTC),
            attempts=request.attempts,
            final_url=request.url,
            message=message,
        )
        return DownloadResult(request.row, outcome, None)

    def _note_mood(
        self, flight: _InFlight, status: Status, http_status: int | None, trace: RequestTrace, now: float
    ) -> None:
        """Tells the turns whether the host wants to be left in peace."""
        asks_for_peace = trace.retry_after is not None and status is not Status.KEPT
        if http_status in {429, 503} or asks_for_peace:
            self._turns.refused(flight.request, flight.started, now, trace.retry_after or 0.0)
        elif http_status and http_status < 500:
            self._turns.answered(flight.request, flight.started)

    def _is_silence(self, status: Status, http_status: int | None, trace: RequestTrace) -> bool:
        """Tells whether a URL's host gave no answer; a proxy says that with a 502, 503 or 504 of its own."""
        if self._proxy and http_status in {502, 503, 504}:
            return trace.retry_after is None
        return http_status is None and status in _NO_ANSWER

    def _move(self, request: Request) -> Request | None:
        """Returns the request at the URL that the config's rules make of it, or None where none does, or did before."""
        url = rewrite(request.url, self._config.rewrite) if request.rewritten_after is None else None
        return dataclasses.replace(request, url=url, rewritten_after=request.attempts) if url else None


def _quote(url: str) -> str:
    """Returns a URL as aria2 takes it: its scheme in small letters, its host as DNS has it, and what is odd encoded."""
    scheme, colon, rest = url.partition(":")
    host = _HOST.match(rest)
    if host and not host[1].isascii():
        with contextlib.suppress(UnicodeError):  # no name of the DNS's; aria2 says so
            rest = rest[: host.start(1)] + host[1].encode("idna").decode() + rest[host.end(1) :]
    return urllib.parse.quote(scheme.lower() + colon + rest, safe=_URL_SAFE)
