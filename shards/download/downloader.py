"""Downloads URLs with one aria2 daemon, which it controls over JSON-RPC."""

import dataclasses
import datetime as dt
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.config.schema import AssembleConfig
from shards.download.aria2_daemon import Aria2Daemon
from shards.download.body_slots import StoredBody
from shards.download.classify import AttemptResult, classify, error_message, is_local_failure, is_unverified
from shards.download.host_queue import Request
from shards.download.proxies import Proxies
from shards.download.retry_policy import RetryPolicy
from shards.errors import ShardsError
from shards.format.outcomes import Outcome, Status

if TYPE_CHECKING:
    from shards.download.relay import Relay

_WATCH_INTERVAL = 1.0  # seconds between two checks of the active downloads
_MIN_SPEED = 1024  # bytes a second, checked after twice the timeout; aria2 counts bytes in steps of 16 KiB
_STATUS_KEYS = ["gid", "status", "errorCode", "errorMessage", "completedLength", "totalLength"]
_MAX_URL = 1500  # bytes; the log would cut a longer one
_MAX_ARIA2_TIMEOUT = 600  # seconds


@dataclasses.dataclass(frozen=True)
class DownloadResult:
    """The final result of one request."""

    row: int  # row number in the list
    outcome: Outcome  # its status is KEPT if a response body was received; the body may still not be a picture
    body: StoredBody | None  # the response body, or None


@dataclasses.dataclass
class _ActiveDownload:
    """A download that aria2 has; `abort_status` is set once it is stopped for its size or speed."""

    request: Request
    started: float
    url: str  # the URL that aria2 requests
    slot: int  # for the response body
    abort_status: Status | None = None


class Downloader:
    """A downloader of http and https URLs, with further attempts as configured; use it in a `with`.

    The daemon starts with the first request and stops at the end of the `with`.
    """

    def __init__(self, config: AssembleConfig, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare a downloader; `folder` is for the daemon's files.

        `clock` returns seconds; all delays and limits except aria2's own timeout follow it.
        """
        self._config = config
        self._daemon = Aria2Daemon(config, folder)
        self._opened_relay: Relay | None = None
        self._relayed_hosts: set[str] = set()  # hosts with response heads that the log does not show completely
        self._proxies = Proxies.read(config)
        self._policy = RetryPolicy(config)
        self._queue = self._policy.queue
        self._clock = clock
        self._active: dict[str, _ActiveDownload] = {}  # by aria2's gid
        self._gids = 0
        self._next_watch = 0.0

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.stop()
        if self._opened_relay:
            self._opened_relay.stop()

    @property
    def _relay(self) -> "Relay":
        if self._opened_relay is None:
            # Most downloads need no relay, and the import of aiohttp takes 0.3 seconds.
            from shards.download.relay import Relay  # noqa: PLC0415

            self._opened_relay = Relay(self._config)
        return self._opened_relay

    def add(self, requests: Iterable[Request]) -> None:
        """Queue requests; `poll` returns one result for each.

        Raises:
            ShardsError: there is no aria2c, it doesn't start, or a URL's proxy is of a kind that it doesn't support.
        """
        for request in requests:
            self._proxies.find(request.url)
            self._queue.put(request)
        if self.is_busy:
            self._daemon.start()

    @property
    def is_busy(self) -> bool:
        """Whether `poll` has not returned a result for every request yet."""
        return bool(self._active) or bool(len(self._queue))

    def describe_wait(self) -> str | None:
        """Return what the downloads wait for, if none is in flight and none may start now."""
        wait = self._queue.next_wait(self._clock())
        if wait is None:
            return None
        count, host, seconds = wait
        return f"waiting for {count} URL{'s' * (count > 1)} of {host}, next in {math.ceil(seconds)} s"

    def poll(self, timeout: float) -> list[DownloadResult]:
        """Return the results since the last call; wait up to `timeout` seconds if there are none.

        Raises:
            ShardsError: the daemon has exited, or can't write.
        """
        now = self._clock()
        results = [_cancelled_result(request) for request in self._queue.take_cancelled()]
        aborted = self._abort_slow_or_large(now)
        requests = self._take_requests(now)
        if not requests and not self._active:
            if not results:
                time.sleep(timeout)
            return results
        gids = [self._register(request, now) for request in requests]
        calls: list[tuple[str, list[Any]]] = [("forceRemove", [gid]) for gid in aborted]
        for gid in gids:
            download = self._active[gid]
            options = {"gid": gid, "out": self._daemon.slots.name(download.slot)}
            if download.request.is_relayed:
                options |= {"no-proxy": "127.0.0.1", "timeout": str(min(self._config.deadline, _MAX_ARIA2_TIMEOUT))}
            calls.append(("addUri", [[download.url], options]))
        # purgeDownloadResult drops all results; aria2 does nothing else between two calls of one multicall.
        calls += [("tellStopped", [0, 2 * self._config.connections, _STATUS_KEYS]), ("purgeDownloadResult", [])]
        answers = self._daemon.call(calls)
        finished: list[DownloadResult | None] = []
        for gid, answer in zip(gids, answers[len(aborted) :], strict=False):
            if isinstance(answer, dict):  # aria2 refuses the URL
                refusal = AttemptResult(Status.UNSUPPORTED_URL, str(answer.get("message")))
                finished.append(self._finish(gid, refusal))
        finished += [self._collect(stopped) for stopped in answers[-2][0]]
        results += [result for result in finished if result is not None]
        if not results:
            self._daemon.log.wait_for_stop(timeout)
        return results

    def _take_requests(self, now: float) -> list[Request]:
        """Take the requests to start now; those whose host does not answer are queued at their rewritten URL."""
        taken: list[Request] = []
        for request in self._queue.take(self._config.connections - len(self._active), now):
            rewritten = self._policy.rewrite_unresponsive(request)
            if rewritten:
                self._queue.finish(request)
                self._queue.put(rewritten)
            else:
                taken.append(request)
        return taken

    def _register(self, request: Request, now: float) -> str:
        self._gids += 1
        gid = f"{self._gids:016x}"
        url = request.encoded_url
        is_relayed = request.is_relayed or len(url) > _MAX_URL or request.host in self._relayed_hosts
        request = dataclasses.replace(request, attempts=request.attempts + 1, is_relayed=is_relayed)
        slot = self._daemon.slots.take()
        self._active[gid] = _ActiveDownload(request, now, self._relay.register(url) if is_relayed else url, slot)
        return gid

    def _abort_slow_or_large(self, now: float) -> list[str]:
        """Return, once per watch interval, the gids of downloads that are too slow or announce too many bytes."""
        if now < self._next_watch or not self._active:
            return []
        self._next_watch = now + _WATCH_INTERVAL
        aborted: list[str] = []
        for progress in self._daemon.call([("tellActive", [["gid", "completedLength", "totalLength"]])])[0][0]:
            download = self._active[progress["gid"]]
            seconds, received = now - download.started, int(progress["completedLength"])
            if int(progress["totalLength"]) > self._config.max_bytes:
                download.abort_status = Status.TOO_LARGE
            elif seconds > self._config.deadline:
                download.abort_status = Status.TIMEOUT
            elif seconds > 2 * self._config.timeout and received < _MIN_SPEED * seconds:
                download.abort_status = Status.TOO_SLOW
            if download.abort_status:
                aborted.append(progress["gid"])
        return aborted

    def _collect(self, stopped: dict[str, str]) -> DownloadResult | None:
        """Evaluate a download that aria2 has stopped."""
        download = self._active[stopped["gid"]]
        if is_local_failure(stopped):
            raise ShardsError(
                f"aria2c can't write into {self._config.out}: {error_message(stopped)}; "
                "remove the cause and run the same command again"
            )
        trace = self._daemon.log.take_trace(download.url)
        if download.request.is_relayed:
            trace = self._relay.take_trace(download.url)
        result = classify(stopped, trace, self._config)
        status = download.abort_status
        if not status and not download.request.is_relayed and is_unverified(stopped, trace):
            self._request_through_relay(stopped["gid"], result)
            return None
        if status and stopped["status"] != "complete" and result.status is not Status.REDIRECT_REFUSED:
            message = f"{stopped['completedLength']} bytes in {self._clock() - download.started:.0f} s"
            if status is Status.TOO_LARGE:
                message = f"over max_bytes {self._config.max_bytes}"
            result = dataclasses.replace(result, status=status, message=message)
        return self._finish(stopped["gid"], self._policy.check_proxy(result))

    def _request_through_relay(self, gid: str, result: AttemptResult) -> None:
        """Drop a download whose response the log did not show completely, and queue its URL for the relay."""
        download = self._active.pop(gid)
        if result.http_status and result.http_status < 400:
            self._queue.record_answer(download.request, download.started)
        if result.trace.is_cut:
            self._relayed_hosts.add(download.request.host)
        self._daemon.slots.empty(download.slot)
        self._queue.finish(download.request)
        self._queue.put(dataclasses.replace(download.request, is_relayed=True))

    def _finish(self, gid: str, result: AttemptResult) -> DownloadResult | None:
        """Return the request's final result, or None if it is queued for another attempt."""
        download, now = self._active.pop(gid), self._clock()
        request = download.request
        following = self._policy.next_attempt(request, download.started, result, now)
        self._queue.finish(request)
        body = None
        if result.status is Status.KEPT:
            body = self._daemon.slots.store(download.slot, request.bodies)
        else:
            self._daemon.slots.empty(download.slot)
        if following:
            self._queue.put(*following)
            return None
        outcome = Outcome(
            result.status,
            dt.datetime.now(dt.UTC),
            http_status=result.http_status,
            attempts=request.attempts,
            final_url=result.trace.final_url or request.url,
            seconds=now - download.started,
            message=result.message,
        )
        return DownloadResult(request.row, outcome, body)


def _cancelled_result(request: Request) -> DownloadResult:
    outcome = Outcome(
        request.last_status,
        dt.datetime.now(dt.UTC),
        attempts=request.attempts,
        final_url=request.url,
        message=f"not requested{' again' if request.attempts else ''}: its host refused too many URLs in a row",
    )
    return DownloadResult(request.row, outcome, None)
