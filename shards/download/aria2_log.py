"""Reads redirects, response headers and errors from aria2's log, which its RPC does not report.

aria2 cuts the message of a record at 2,047 bytes and at a NUL byte. A trace that misses something for that reason is
marked, so that the caller does not rely on it.
"""

import collections
import dataclasses
import io
import re
import threading
import time
from urllib.parse import urlsplit

from shards.download.request_trace import RequestTrace
from shards.download.url_rewrite import request_target

_MAX_MESSAGE = 2047  # bytes
_STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} \[[A-Z]+\] ")
_PREFIX = _STAMP.pattern + rb"\[[\w.]+:\d+\] "
_RECORD = re.compile(
    _PREFIX + rb"(CUID#(\d+) - (Requesting:|Response received:|Redirecting to (\S+)).*)",
    re.DOTALL,
)
_RESOLVED = re.compile(_PREFIX + rb"CUID#(\d+) - (?:Name resolution complete|DNS cache hit): (\S+) -> (.*)")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})")
_RPC = b"Executing RPC method system.multicall"
# Position in aria2's source code and error number: "[SocketCore.cc:313] errorCode=1 ".
_SOURCE = r"(?:\[[\w.]+:\d+\] )?(?:errorCode=\d+ )?"
_ERROR = re.compile(rf"(?:Exception: |.*\[ERROR\] ){_SOURCE}(.*)")
_CAUSE = re.compile(rf" *-> {_SOURCE}(.*)")  # on the following line
_MAX_ERROR = 300  # bytes
_PAUSE = 0.002  # seconds between two reads
_CHUNK = 2**20  # bytes
_COMPLETE, _INCOMPLETE = b"Download complete:", b" not complete:"


@dataclasses.dataclass
class _Head:
    """The head of a request or a response while it is read."""

    cuid: bytes
    is_request: bool
    size: int  # bytes of the record's message so far
    has_blank: bool = False  # whether the last line was blank
    lines: list[bytes] = dataclasses.field(default_factory=list[bytes])


class Aria2Log(threading.Thread):
    """A thread that reads aria2's log (level info) from a pipe, so that the daemon never blocks on writing it.

    aria2 marks a download's lines with a number (CUID) that its RPC does not report. The logged request line relates
    the number to the URL, so two URLs with the same `request_target` must not be downloaded at the same time.
    """

    def __init__(self, pipe: io.BufferedReader) -> None:
        super().__init__(name="aria2 log", daemon=True)
        self._pipe = pipe
        self._changed = threading.Condition()
        self._by_cuid: dict[bytes, RequestTrace] = {}
        self._by_target: dict[str, tuple[bytes, RequestTrace]] = {}
        self._head: _Head | None = None
        self._tunnels: dict[bytes, str] = {}  # unanswered CONNECT requests by CUID: host:port
        self._refused_tunnels: collections.Counter[str] = collections.Counter()  # answered with 407, not yet taken
        self._calls = 0
        self._stops = 0
        self._last_lines: collections.deque[bytes] = collections.deque(maxlen=4)
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
        """Return the trace of a URL whose download has stopped, and remove it; a new one if there is none."""
        with self._changed:
            cuid, trace = self._by_target.pop(request_target(url), (b"", RequestTrace()))
            self._by_cuid.pop(cuid, None)
            if not cuid and (tunnel := _connect_target(url)) in self._refused_tunnels:
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
            return " ".join(" ".join(self._first_error or map(_decode_start, self._last_lines)).split())

    def _read_line(self, line: bytes) -> None:
        if self._head is not None and self._read_head_line(self._head, line):
            return
        if line == b"\n":
            return
        self._last_lines.append(line)
        if b"[ERROR]" in line or line.startswith(b"Exception: ") or len(self._first_error) == 1:
            self._record_error(_decode_start(line))
        # The expressions are slow, and most lines have no CUID.
        has_cuid = b" CUID#" in line
        if has_cuid and (record := _RECORD.match(line)):
            self._start_record(record)
        elif has_cuid and (resolved := _RESOLVED.match(line)):
            self._record_addresses(*resolved.groups())
        elif _RPC in line:
            self._calls += 1
            self._changed.notify_all()
        elif _COMPLETE in line or _INCOMPLETE in line:
            self._stops += 1
            self._changed.notify_all()

    def _record_error(self, line: str) -> None:
        if not self._first_error and (error := _ERROR.match(line)):
            self._first_error = [error[1]]
        elif len(self._first_error) == 1 and (cause := _CAUSE.match(line)):
            self._first_error.append(cause[1])

    def _start_record(self, record: re.Match[bytes]) -> None:
        message, cuid, kind, location = record.groups()
        if location is None:
            self._head = _Head(cuid, is_request=kind == b"Requesting:", size=len(message))
        elif cuid in self._by_cuid:
            trace = self._by_cuid[cuid]
            trace.redirects.append(location.decode(errors="replace"))
            trace.is_cut |= len(message) > _MAX_MESSAGE  # the message and its line end

    def _record_addresses(self, cuid: bytes, host: bytes, addresses: bytes) -> None:
        trace = self._by_cuid.get(cuid)  # None before the first request: the list's own host is not recorded
        if trace is not None:
            found = [address.strip() for address in addresses.decode(errors="replace").split(",")]
            trace.addresses.setdefault(host.decode(errors="replace").lower(), []).extend(found)

    def _read_head_line(self, head: _Head, line: bytes) -> bool:
        """Add a line to a head; False if the line is a new record, since the head was cut at a NUL byte."""
        head.size += len(line)
        if head.has_blank and line == b"\n":  # the line end that aria2 writes after the head
            self._end_head(head)
        elif head.size > _MAX_MESSAGE:
            self._end_head(head, is_cut=True)
        elif line in {b"\n", b"\r\n"}:
            head.has_blank = True
        elif head.has_blank or _STAMP.match(line):
            # The line may also be part of the head, written by a server to look like a record of another download.
            self._end_head(head, is_cut=True)
            for trace in self._by_cuid.values():
                trace.is_doubtful = True
            return False
        else:
            head.lines.append(line)
        return True

    def _end_head(self, head: _Head, *, is_cut: bool = False) -> None:
        self._head = None
        if is_cut:
            if head.cuid in self._by_cuid:
                self._by_cuid[head.cuid].is_cut |= not head.is_request
        elif not head.lines:
            pass
        elif head.is_request:
            self._record_request(head)
        else:
            self._record_response(head)

    def _record_request(self, head: _Head) -> None:
        method, _, rest = head.lines[0].partition(b" ")
        target = rest.partition(b" ")[0]
        if method == b"CONNECT":
            self._tunnels[head.cuid] = target.decode(errors="replace").lower()
        if method != b"GET" or head.cuid in self._by_cuid:
            return
        host = next((value for name, value in _headers_in(head) if name.lower() == "host"), "")
        absolute = target.startswith((b"http://", b"https://"))  # a request to a proxy
        url = target.decode(errors="replace") if absolute else f"//{host}{target.decode(errors='replace')}"
        key = request_target(url)
        trace = self._by_cuid[head.cuid] = RequestTrace(host=urlsplit(url).hostname or "")
        if key in self._by_target:  # for example a request to a mirror that another response named
            trace.is_doubtful = self._by_target[key][1].is_doubtful = True
        self._by_target[key] = (head.cuid, trace)

    def _record_response(self, head: _Head) -> None:
        status = _STATUS.match(head.lines[0])
        trace = self._by_cuid.get(head.cuid)
        if trace is not None:
            trace.record_response(int(status[1]) if status else 0, _headers_in(head))
        elif status and (tunnel := self._tunnels.pop(head.cuid, None)) and status[1] == b"407":
            self._refused_tunnels[tunnel] += 1


def _decode_start(line: bytes) -> str:
    return line[:_MAX_ERROR].decode(errors="replace")


def _headers_in(head: _Head) -> list[tuple[str, str]]:
    """Return the headers of a head; one that continues on further lines, which start with a space, is joined."""
    joined: list[str] = []
    for line in head.lines[1:]:
        text = line.decode(errors="replace")
        if text[0] in " \t" and joined:
            joined[-1] += f" {text.strip()}"
        else:
            joined.append(text)
    parts = [line.partition(":") for line in joined]
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _connect_target(url: str) -> str:
    """Return the host:port of the CONNECT request for an https URL."""
    host = urlsplit(url).netloc.rpartition("@")[2].lower()
    return host if re.search(r":\d+$", host) else f"{host.rstrip(':')}:443"
