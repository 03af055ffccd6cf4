"""What aria2 tells in its log alone: where a URL led to, and how long a host wants to be left in peace."""

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
# Where in aria2's own source a line comes from, and its number: "[SocketCore.cc:313] errorCode=1 ".
_PLACE = r"(?:\[[\w.]+:\d+\] )?(?:errorCode=\d+ )?"
_ERROR = re.compile(rf"(?:Exception: |.*\[ERROR\] ){_PLACE}(.*)")
_CAUSE = re.compile(rf" *-> {_PLACE}(.*)")  # the line after it
_PAUSE = 0.005  # seconds between two looks at the log
_CHUNK = 2**20  # bytes
_STOPS = (b"Download complete:", b" not complete:")


@dataclasses.dataclass
class RequestTrace:
    """One URL's way through redirects, as far as it has come.

    Attributes:
        host: that was asked first, without its port.
        redirects: where each redirect led.
        addresses: of the hosts that redirects led to, as far as their names were resolved here.
        http_status: of the last answer.
        retry_after: seconds that the last answer asked to wait, or None.
        robots: the last answer's X-Robots-Tag headers.
    """

    host: str = ""
    redirects: list[str] = dataclasses.field(default_factory=list[str])
    addresses: dict[str, list[str]] = dataclasses.field(default_factory=dict[str, list[str]])
    http_status: int | None = None
    retry_after: float | None = None
    robots: list[str] = dataclasses.field(default_factory=list[str])

    @property
    def final_url(self) -> str | None:
        """Returns where the last redirect led, or None where there was none."""
        return self.redirects[-1] if self.redirects else None


class Aria2Log(threading.Thread):
    """Reads aria2's log (level info) from a pipe as it comes, so that the daemon never waits for us.

    aria2 writes a download's lines under a number of its own (CUID), which its RPC doesn't know; the request line ties
    the number to the URL.
    """

    def __init__(self, pipe: io.BufferedReader) -> None:
        super().__init__(name="aria2 log", daemon=True)
        self._pipe = pipe
        self._changed = threading.Condition()
        self._by_cuid: dict[bytes, RequestTrace] = {}
        self._by_target: dict[str, tuple[bytes, RequestTrace]] = {}
        self._cuid: bytes | None = None  # of the headers that are being read
        self._target = b""  # of the request line among them; empty within an answer
        self._tunnels: dict[bytes, str] = {}  # that a proxy was asked for and has not answered, by CUID: host:port
        self._refused_tunnels: collections.Counter[str] = collections.Counter()  # with a 407, and not taken yet
        self._calls = 0
        self._stops = 0
        self._last_lines: collections.deque[str] = collections.deque(maxlen=4)
        self._first_error: list[str] = []

    def run(self) -> None:
        """Reads until the daemon ends."""
        rest = b""
        with self._pipe:
            while chunk := self._pipe.read1(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                with self._changed:
                    for line in lines:
                        self._read_line(line + b"\n")
                # The daemon writes line by line, some 24 for a download; a reader that waited for each would be woken
                # for each, which costs both more than the reading.
                time.sleep(_PAUSE)

    def take(self, url: str) -> RequestTrace:
        """Returns what is known of a URL that has ended, and forgets it."""
        with self._changed:
            cuid, trace = self._by_target.pop(_target_of(url), (b"", RequestTrace()))
            self._by_cuid.pop(cuid, None)
            tunnel = _tunnel_to(url)
            if not cuid and tunnel in self._refused_tunnels:
                trace.http_status = 407
                self._refused_tunnels -= collections.Counter([tunnel])
            return trace

    def wait_for_call(self, number: int, timeout: float) -> bool:
        """Waits until the log has been read up to the daemon's multicall `number` (from 1); False if that never came.

        What the daemon answers in a call, it has logged before.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._calls >= number, timeout)

    def wait_for_stop(self, timeout: float) -> None:
        """Waits until a download has ended since the last such wait."""
        with self._changed:
            self._changed.wait_for(lambda: self._stops > 0, timeout)
            self._stops = 0

    @property
    def complaint(self) -> str:
        """Returns the first error in the log as one line, or the log's end where it names none."""
        with self._changed:
            return " ".join(" ".join(self._first_error or self._last_lines).split())

    def _read_line(self, line: bytes) -> None:
        if self._cuid is not None:
            self._read_header(self._cuid, line)
            return
        if line.startswith(b"\n"):
            return
        self._note_words(line[:300].decode(errors="replace"))
        record = _RECORD.search(line)
        if record:
            self._begin(record)
        elif resolved := _RESOLVED.search(line):
            self._note_addresses(*resolved.groups())
        elif _RPC in line:
            self._calls += 1
            self._changed.notify_all()
        elif any(stop in line for stop in _STOPS):
            self._stops += 1
            self._changed.notify_all()

    def _note_words(self, line: str) -> None:
        self._last_lines.append(line)
        if not self._first_error and (error := _ERROR.match(line)):
            self._first_error = [error[1]]
        elif len(self._first_error) == 1 and (cause := _CAUSE.match(line)):
            self._first_error.append(cause[1])

    def _begin(self, record: re.Match[bytes]) -> None:
        cuid, kind, location = record.groups()
        if location is None:
            self._cuid = cuid
            self._target = b"?" if kind == b"Requesting:" else b""
        elif cuid in self._by_cuid:
            self._by_cuid[cuid].redirects.append(location.decode(errors="replace"))

    def _note_addresses(self, cuid: bytes, host: bytes, addresses: bytes) -> None:
        trace = self._by_cuid.get(cuid)  # None until the first request: where the list's own host is says nothing
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
                absolute = self._target.startswith((b"http://", b"https://"))  # so it is asked of a proxy
                url = (self._target if absolute else b"//" + value.strip() + self._target).decode(errors="replace")
                trace = self._by_cuid[cuid] = RequestTrace(host=urlsplit(url).hostname or "")
                self._by_target[_target_of(url)] = (cuid, trace)
        elif cuid in self._by_cuid:
            _read_answer(self._by_cuid[cuid], line)
        elif (status := _STATUS.match(line)) and (tunnel := self._tunnels.pop(cuid, None)) and status[1] == b"407":
            self._refused_tunnels[tunnel] += 1


def _read_answer(trace: RequestTrace, line: bytes) -> None:
    status = _STATUS.match(line)
    if status:
        trace.http_status = int(status[1])
        trace.retry_after = None
        trace.robots = []
    elif line[:13].lower() == b"x-robots-tag:":
        trace.robots.append(line[13:].decode(errors="replace"))
    elif line[:12].lower() == b"retry-after:":
        trace.retry_after = _seconds(line[12:].strip().decode(errors="replace"))


def _seconds(retry_after: str) -> float | None:
    """Reads a Retry-After, which is a number of seconds or a date."""
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=dt.UTC)
    return max(0.0, (date - dt.datetime.now(dt.UTC)).total_seconds())


def _tunnel_to(url: str) -> str:
    """Returns the host:port that a proxy is asked to CONNECT to for an https URL."""
    host = urlsplit(url).netloc.rpartition("@")[2].lower()
    return host if re.search(r":\d+$", host) else f"{host.rstrip(':')}:443"


def _target_of(url: str) -> str:
    """Returns what a URL and the request for it have in common: host, port unless it is the usual one, and path."""
    parts = urlsplit(url)
    host = re.sub(r":(80|443)?$", "", parts.netloc.rpartition("@")[2].lower())
    return f"{host}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
