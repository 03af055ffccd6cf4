"""Read redirects, response headers and errors from aria2's log, which its RPC does not report."""

import collections
import dataclasses
import datetime as dt
import email.utils
import io
import re
import threading
import time
from urllib.parse import urlsplit

_RECORD = re.compile(rb"CUID#(\d+) - (Requesting:|Response received:|Redirecting to (\S+))")
_RESOLVED = re.compile(rb"CUID#(\d+) - (?:Name resolution complete|DNS cache hit): (\S+) -> (.*)")
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3})")
_RPC = b"Executing RPC method system.multicall"
# Position in aria2's source code and error number: "[SocketCore.cc:313] errorCode=1 ".
_SOURCE = r"(?:\[[\w.]+:\d+\] )?(?:errorCode=\d+ )?"
_ERROR = re.compile(rf"(?:Exception: |.*\[ERROR\] ){_SOURCE}(.*)")
_CAUSE = re.compile(rf" *-> {_SOURCE}(.*)")  # on the following line
_PAUSE = 0.005  # seconds between two reads
_CHUNK = 2**20  # bytes
_STOPS = (b"Download complete:", b" not complete:")


@dataclasses.dataclass
class RequestTrace:
    """The redirects and the last response of one URL."""

    host: str = ""  # host of the first request, without its port
    redirects: list[str] = dataclasses.field(default_factory=list[str])  # target of each redirect
    # Addresses by host name, for hosts that aria2 resolved after the first request.
    addresses: dict[str, list[str]] = dataclasses.field(default_factory=dict[str, list[str]])
    http_status: int | None = None  # status code of the last response
    retry_after: float | None = None  # the last response's Retry-After in seconds, or None
    robots: list[str] = dataclasses.field(default_factory=list[str])  # the last response's X-Robots-Tag headers

    @property
    def final_url(self) -> str | None:
        """Return the target of the last redirect, or None if there was none."""
        return self.redirects[-1] if self.redirects else None


class Aria2Log(threading.Thread):
    """A thread that reads aria2's log (level info) from a pipe, so that the daemon never blocks on writing it.

    aria2 marks a download's lines with a number (CUID) that its RPC does not report. The logged request line relates
    the number to the URL.
    """

    def __init__(self, pipe: io.BufferedReader) -> None:
        super().__init__(name="aria2 log", daemon=True)
        self._pipe = pipe
        self._changed = threading.Condition()
        self._by_cuid: dict[bytes, RequestTrace] = {}
        self._by_target: dict[str, tuple[bytes, RequestTrace]] = {}
        self._cuid: bytes | None = None  # of the request or response whose headers are being read
        self._target = b""  # of that request; "?" before its first line, empty in a response
        self._tunnels: dict[bytes, str] = {}  # unanswered CONNECT requests by CUID: host:port
        self._refused_tunnels: collections.Counter[str] = collections.Counter()  # answered with 407, not yet taken
        self._calls = 0
        self._stops = 0
        self._last_lines: collections.deque[str] = collections.deque(maxlen=4)
        self._first_error: list[str] = []

    def run(self) -> None:
        """Read until the daemon exits."""
        rest = b""
        with self._pipe:
            while chunk := self._pipe.read1(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                with self._changed:
                    for line in lines:
                        self._read_line(line + b"\n")
                # The daemon writes about 24 lines for each download, one by one. Without the pause each line would wake
                # this thread, which costs more than reading it.
                time.sleep(_PAUSE)

    def take_trace(self, url: str) -> RequestTrace:
        """Return the trace of a URL whose download has stopped, and remove it."""
        with self._changed:
            cuid, trace = self._by_target.pop(_request_target(url), (b"", RequestTrace()))
            self._by_cuid.pop(cuid, None)
            tunnel = _connect_target(url)
            if not cuid and tunnel in self._refused_tunnels:
                trace.http_status = 407
                self._refused_tunnels -= collections.Counter([tunnel])
            return trace

    def wait_for_call(self, number: int, timeout: float) -> bool:
        """Wait until the daemon's multicall `number` (from 1) has been read; False after `timeout` seconds.

        The daemon logs an event before it reports it in a call's result.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._calls >= number, timeout)

    def wait_for_stop(self, timeout: float) -> None:
        """Wait until a download has stopped since the last call."""
        with self._changed:
            self._changed.wait_for(lambda: self._stops > 0, timeout)
            self._stops = 0

    @property
    def error(self) -> str:
        """Return the first error in the log as one line, or the last lines if there is none."""
        with self._changed:
            return " ".join(" ".join(self._first_error or self._last_lines).split())

    def _read_line(self, line: bytes) -> None:
        if self._cuid is not None:
            self._read_header(self._cuid, line)
            return
        if line.startswith(b"\n"):
            return
        self._record_error(line[:300].decode(errors="replace"))
        record = _RECORD.search(line)
        if record:
            self._start_record(record)
        elif resolved := _RESOLVED.search(line):
            self._record_addresses(*resolved.groups())
        elif _RPC in line:
            self._calls += 1
            self._changed.notify_all()
        elif any(stop in line for stop in _STOPS):
            self._stops += 1
            self._changed.notify_all()

    def _record_error(self, line: str) -> None:
        self._last_lines.append(line)
        if not self._first_error and (error := _ERROR.match(line)):
            self._first_error = [error[1]]
        elif len(self._first_error) == 1 and (cause := _CAUSE.match(line)):
            self._first_error.append(cause[1])

    def _start_record(self, record: re.Match[bytes]) -> None:
        cuid, kind, location = record.groups()
        if location is None:
            self._cuid = cuid
            self._target = b"?" if kind == b"Requesting:" else b""
        elif cuid in self._by_cuid:
            self._by_cuid[cuid].redirects.append(location.decode(errors="replace"))

    def _record_addresses(self, cuid: bytes, host: bytes, addresses: bytes) -> None:
        trace = self._by_cuid.get(cuid)  # None before the first request: the list's own host is not recorded
        if trace is not None:
            found = [address.strip() for address in addresses.decode(errors="replace").split(",")]
            trace.addresses.setdefault(host.decode(errors="replace").lower(), []).extend(found)

    def _read_header(self, cuid: bytes, line: bytes) -> None:
        line = line.strip()
        if not line:
            self._cuid = None
        elif self._target == b"?":
            if line.startswith(b"CONNECT "):
                self._tunnels[cuid] = line.split(b" ")[1].decode(errors="replace").lower()
            self._target = line.split(b" ")[1] if line.startswith(b"GET ") else b""
        elif self._target:
            name, _, value = line.partition(b":")
            if name.lower() == b"host" and cuid not in self._by_cuid:
                absolute = self._target.startswith((b"http://", b"https://"))  # a request to a proxy
                url = (self._target if absolute else b"//" + value.strip() + self._target).decode(errors="replace")
                trace = self._by_cuid[cuid] = RequestTrace(host=urlsplit(url).hostname or "")
                self._by_target[_request_target(url)] = (cuid, trace)
        elif cuid in self._by_cuid:
            _read_response_header(self._by_cuid[cuid], line)
        elif (status := _STATUS.match(line)) and (tunnel := self._tunnels.pop(cuid, None)) and status[1] == b"407":
            self._refused_tunnels[tunnel] += 1


def _read_response_header(trace: RequestTrace, line: bytes) -> None:
    status = _STATUS.match(line)
    if status:
        trace.http_status = int(status[1])
        trace.retry_after = None
        trace.robots = []
    elif line[:13].lower() == b"x-robots-tag:":
        trace.robots.append(line[13:].decode(errors="replace"))
    elif line[:12].lower() == b"retry-after:":
        trace.retry_after = _parse_retry_after(line[12:].strip().decode(errors="replace"))


def _parse_retry_after(retry_after: str) -> float | None:
    """Parse a Retry-After header, a number of seconds or a date."""
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)
    return max(0.0, (date - dt.datetime.now(dt.UTC)).total_seconds())


def _connect_target(url: str) -> str:
    """Return the host:port of the CONNECT request for an https URL."""
    host = urlsplit(url).netloc.rpartition("@")[2].lower()
    return host if re.search(r":\d+$", host) else f"{host.rstrip(':')}:443"


def _request_target(url: str) -> str:
    """Return what a URL and its logged request have in common: host, port unless it is 80 or 443, path and query."""
    parts = urlsplit(url)
    host = re.sub(r":(80|443)?$", "", parts.netloc.rpartition("@")[2].lower())
    return f"{host}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
