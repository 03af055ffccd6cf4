"""Starts, calls and stops an aria2 daemon."""

import contextlib
import io
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import aria2p
import urllib3

from shards.config.schema import AssembleConfig
from shards.download.aria2_log import Aria2Log
from shards.download.body_slots import BodySlots
from shards.download.policy import USER_AGENT
from shards.download.proxies import Proxies
from shards.errors import ShardsError

_PROXY_VARIABLES = {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}
_PIPE_SIZE = 2**20  # bytes


class _Client(aria2p.Client):
    """aria2p's client with one persistent connection, which uses no proxy and less processor time than its own."""

    def __init__(self, port: int, secret: str) -> None:
        super().__init__("http://127.0.0.1", port, secret)
        self._connection = urllib3.HTTPConnectionPool("127.0.0.1", port, timeout=self.timeout, retries=False)

    def post(self, payload: str) -> dict[str, Any]:
        return self._connection.urlopen("POST", "/jsonrpc", body=payload).json()


class Aria2Daemon:
    """An aria2c process, from `start` to `stop`, that listens on the loopback interface and requires a secret."""

    log: Aria2Log
    slots: BodySlots

    def __init__(self, config: AssembleConfig, folder: Path) -> None:
        """Prepare a daemon; `folder` is for its configuration file, and for the slots if they can't be in memory."""
        self._config = config
        self._folder = folder
        self._calls = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon unless it is running.

        Raises:
            ShardsError: there is no aria2c, or it doesn't start.
        """
        if self._process is None:
            self.slots = BodySlots(self._config.connections, self._folder / "slots")
            self._process, self._client, self.log = _start(self._config, self._folder, self.slots)

    def stop(self) -> None:
        """Kill the daemon if it is running; unfinished downloads are lost."""
        if self._process is not None:
            _kill(self._process, self.log)
            self.slots.close()

    def call(self, calls: list[tuple[str, list[Any]]]) -> list[Any]:
        """Send RPC calls, each a method (without "aria2.") and its parameters, in one request.

        When it returns, the log has been read up to this request.

        Returns:
            For each call a list with its result, or a dict with an error code and message.

        Raises:
            ShardsError: the daemon has exited, or its log has another format than that of aria2 1.3x.
        """
        assert self._process is not None
        self._calls += 1
        try:
            answers = self._client.multicall2([(f"aria2.{method}", parameters) for method, parameters in calls])
        except (urllib3.exceptions.HTTPError, ValueError, aria2p.ClientException) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            reason = str(error) if self._process.returncode is None else f"exit code {self._process.returncode}"
            raise ShardsError(f"aria2c has exited ({reason}); run the same command again to resume") from error
        if not self.log.wait_for_call(self._calls, timeout=30):
            raise ShardsError("this aria2c has an unknown log format; remove it from PATH to use the aria2c package's")
        return cast("list[Any]", answers)


def _start(
    config: AssembleConfig, folder: Path, slots: BodySlots
) -> tuple["subprocess.Popen[bytes]", _Client, Aria2Log]:
    """Start the daemon on a free port of the loopback interface and wait until it answers.

    Raises:
        ShardsError: it does not answer.
    """
    program = find_aria2c()
    environment = {name: value for name, value in os.environ.items() if name.lower() not in _PROXY_VARIABLES}
    secret = secrets.token_hex(16)
    reason = ""
    for _ in range(5):  # another program may take the port before aria2 listens
        port = _find_free_port()
        settings = folder / "aria2.conf"
        settings.touch(mode=0o600)  # contains the secret and the proxy's password
        settings.write_text(
            "".join(f"{name}={value}\n" for name, value in _settings(config, port, secret)), encoding="utf-8"
        )
        with _file_size_limit(config.max_bytes):
            process = subprocess.Popen(
                [program, f"--conf-path={settings}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pipesize=_PIPE_SIZE,  # so that aria2 does not wait for the log's reader
                cwd=slots.folder,  # aria2 looks each file up 15 times, which is faster without the rest of its path
                env=environment,
                pass_fds=slots.inherited,
                restore_signals=False,  # SIGXFSZ stays ignored, so that a write over the size limit returns an error
                start_new_session=True,  # Ctrl-C does not reach the daemon
            )
        assert isinstance(process.stdout, io.BufferedReader)
        log = Aria2Log(process.stdout)
        log.start()
        client = _Client(port, secret)
        if _wait_until_ready(process, client):
            settings.unlink()
            return process, client, log
        _kill(process, log)
        reason = log.error
    raise ShardsError(f"{program} doesn't start: {reason[:300] or 'it prints no error'}")


def _settings(config: AssembleConfig, port: int, secret: str) -> list[tuple[str, object]]:
    """Return aria2's configuration; its manual documents each option."""
    agent = f"{USER_AGENT}/{metadata.version('stylefinetune')}"
    certificates = ssl.get_default_verify_paths().cafile  # Python's, so that SSL_CERT_FILE is used
    settings: list[tuple[str, object]] = [
        ("enable-rpc", "true"),
        ("rpc-listen-all", "false"),
        ("rpc-listen-port", port),
        ("rpc-secret", secret),
        ("stop-with-process", os.getpid()),
        ("log", "-"),
        ("log-level", "info"),
        ("quiet", "true"),
        ("dir", "."),
        ("user-agent", f"{agent} ({config.contact})" if config.contact else agent),
        ("max-concurrent-downloads", config.connections),
        ("max-download-result", 2 * config.connections),  # more than can stop between two calls
        ("split", 1),
        ("max-tries", 1),  # aria2 would request the rest of a file, which may have changed
        ("timeout", config.timeout),
        ("connect-timeout", config.timeout),
        ("lowest-speed-limit", 0),  # any other value disables aria2's timeout; Downloader stops slow downloads
        ("http-accept-gzip", "true"),
        ("no-want-digest-header", "true"),
        ("no-netrc", "true"),
        # Torrents and metalinks are not followed.
        ("follow-torrent", "false"),
        ("follow-metalink", "false"),
        ("allow-overwrite", "true"),
        ("remove-control-file", "true"),
        ("auto-file-renaming", "false"),
        ("file-allocation", "none"),
        ("auto-save-interval", 0),
        ("disk-cache", 0),  # the files are in memory
    ]
    if certificates:
        settings.append(("ca-certificate", certificates))
    return settings + list(Proxies.read(config).aria2_options().items())


@contextlib.contextmanager
def _file_size_limit(limit: int) -> Generator[None]:
    """Limit the file size of processes started within the `with`; aria2 has no limit on a body's size."""
    if threading.current_thread() is threading.main_thread():
        # Python ignores this signal from its start; a library may have changed that, as LLVM does.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _wait_until_ready(process: "subprocess.Popen[bytes]", client: _Client) -> bool:
    """Wait until the daemon answers; False if it has exited or 10 seconds have passed."""
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError, aria2p.ClientException):
            client.get_version()
            return True
        time.sleep(0.02)
    return False


def _kill(process: "subprocess.Popen[bytes]", log: Aria2Log) -> None:
    process.kill()
    process.wait()
    log.join(1)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_aria2c() -> str:
    """Return the newer aria2c of the aria2c package and PATH; of two equal versions, the package's.

    Raises:
        ShardsError: there is none.
    """
    candidates: list[str] = []
    with contextlib.suppress(ImportError):
        from aria2c import ARIA2C  # noqa: PLC0415 - the package exists for Linux only

        candidates.append(str(ARIA2C))
    found = shutil.which("aria2c")
    if found:
        candidates.append(found)
    versions = {program: version for program in candidates if (version := _version_of(program))}
    if not versions:
        raise ShardsError("aria2c not found; install aria2 with the system's package manager (brew install aria2, ...)")
    return max(versions, key=lambda program: versions[program])


def _version_of(program: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return None
    version = re.match(r"aria2 version (\d+(?:\.\d+)*)", done.stdout)
    return tuple(int(part) for part in version[1].split(".")) if version else None
