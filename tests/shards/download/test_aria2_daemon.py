import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shards.config.schema import AssembleConfig
from shards.download.aria2_daemon import Aria2Daemon, find_aria2c
from shards.errors import ShardsError


def create_daemon(folder: Path, **settings) -> Aria2Daemon:
    return Aria2Daemon(AssembleConfig(**{"list": "x", "out": folder} | settings), folder)


def running_daemons() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "aria2c"]


def fake_aria2c(folder: Path, version: str) -> str:
    folder.mkdir()
    program = folder / "aria2c"
    program.write_text(f"#!/bin/sh\necho 'aria2 version {version}'\n")
    program.chmod(0o755)
    return str(program)


def wait_until_gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_the_daemon_answers_until_it_is_stopped(tmp_path):
    daemon = create_daemon(tmp_path)
    daemon.start()
    try:
        assert daemon.call([("getVersion", []), ("nonsense", [])])[0][0]["version"]
        (process,) = running_daemons()
    finally:
        daemon.stop()
    assert not process.is_running()


def test_secret_and_password_are_not_readable_by_other_users(tmp_path):
    daemon = create_daemon(tmp_path, proxy="http://me:hunter2@127.0.0.1:9")
    old = os.umask(0)
    try:
        daemon.start()
        (process,) = running_daemons()
        assert "hunter2" not in " ".join(process.cmdline())
        assert not [path for path in tmp_path.iterdir() if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)]
    finally:
        os.umask(old)
        daemon.stop()


def test_the_rpc_ignores_all_proxies(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    daemon = create_daemon(tmp_path)
    daemon.start()
    try:
        assert daemon.call([("getVersion", [])])
    finally:
        daemon.stop()


@pytest.mark.parametrize(
    ("environment", "proxy", "options"),
    [
        ({}, "http://p:1", {"all-proxy": "http://p:1"}),
        ({"http_proxy": "http://e:1"}, "http://p:1", {"all-proxy": "http://p:1"}),
        (
            {"http_proxy": "http://e:1", "HTTPS_PROXY": "http://e:2", "no_proxy": "h"},
            None,
            {"http-proxy": "http://e:1", "https-proxy": "http://e:2", "no-proxy": "h,.h"},
        ),
    ],
)
def test_downloads_use_the_configured_proxy_or_that_of_the_environment(
    tmp_path, monkeypatch, environment, proxy, options
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    daemon = create_daemon(tmp_path, proxy=proxy)
    daemon.start()
    try:
        found = daemon.call([("getGlobalOption", [])])[0][0]
    finally:
        daemon.stop()
    assert {name: value.rstrip("/") for name, value in found.items() if name.endswith("-proxy") and value} == options


def test_a_killed_daemon_is_an_error(tmp_path):
    daemon = create_daemon(tmp_path)
    daemon.start()
    running_daemons()[0].kill()
    with pytest.raises(ShardsError, match="aria2c has exited"):
        daemon.call([("getVersion", [])])
    daemon.stop()


def test_the_daemon_exits_when_its_parent_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from shards.download.aria2_daemon import Aria2Daemon\n"
        "from shards.config.schema import AssembleConfig\n"
        f"folder = Path({str(tmp_path)!r}); daemon = Aria2Daemon(AssembleConfig(list='x', out=folder), folder)\n"
        "daemon.start(); print('up', flush=True); time.sleep(30)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    try:
        assert parent.stdout.readline() == "up\n"
        (daemon,) = [child for child in psutil.Process(parent.pid).children() if child.name() == "aria2c"]
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    assert wait_until_gone(daemon.pid)


def test_the_packages_program_is_the_default(monkeypatch):
    aria2c = pytest.importorskip("aria2c", reason="the package exists for Linux only")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_aria2c() == str(aria2c.ARIA2C)


def test_a_program_on_path_is_used_only_if_it_is_newer(tmp_path, monkeypatch):
    aria2c = pytest.importorskip("aria2c", reason="the package exists for Linux only")
    newer, older = fake_aria2c(tmp_path / "newer", "1.100.0"), fake_aria2c(tmp_path / "older", "1.36.9")
    monkeypatch.setenv("PATH", str(Path(newer).parent))
    assert find_aria2c() == newer
    monkeypatch.setenv("PATH", str(Path(older).parent))
    assert find_aria2c() == str(aria2c.ARIA2C)


def test_a_program_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(fake_aria2c(tmp_path / "bin", "99.0")).parent) + ":" + os.environ["PATH"])
    with pytest.raises(ShardsError, match="doesn't start: aria2 version 99"):
        create_daemon(tmp_path).start()


def test_an_invalid_proxy_variable_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "nonsense::")
    with pytest.raises(ShardsError, match=r"^http_proxy is 'http://nonsense::'"):
        create_daemon(tmp_path).start()
