import contextlib
import http.server
import json
import threading

import pytest

from stylefinetune.doctor.services import check_slurm, check_wandb


@contextlib.contextmanager
def serve(status, answer):
    """A server whose answer to every request is this JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            logins.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    logins = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", logins
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "answer", "level", "found"),
    [
        (200, {"data": {"viewer": {"username": "ada"}}}, "ok", "knows the API key as ada"),
        (200, {"data": {"viewer": None}}, "failed", "doesn't know the API key"),
        (401, {}, "failed", "refuses the API key"),
        (503, {}, "warning", "answers with status 503"),
    ],
)
def test_the_server_is_asked_for_the_user(status, answer, level, found):
    with serve(status, answer) as (url, logins):
        finding = check_wandb({"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40})
    assert (finding.level, finding.found) == (level, f"{url} {found}")
    assert logins[0].startswith("Basic ")


def test_a_server_that_is_down_is_a_warning():
    finding = check_wandb({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "k"})
    assert finding.level == "warning"
    assert "can't be reached" in finding.found
    assert check_wandb({"WANDB_BASE_URL": "ftp://x", "WANDB_API_KEY": "k"}).level == "warning"


def test_the_key_may_be_in_netrc_or_not_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_wandb({}).found == "there is no API key, so runs are logged offline"
    assert check_wandb({"WANDB_MODE": "offline"}).level == "ok"
    with serve(200, {"data": {"viewer": {"username": "ada"}}}) as (url, _):
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        assert check_wandb({"WANDB_BASE_URL": url}).level == "ok"


@pytest.fixture
def scontrol(tmp_path):
    """Let scontrol be a script, and return the environment with it on PATH."""

    def write(script):
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)
        return {"PATH": str(tmp_path)}

    return write


def test_the_controller_of_slurm_is_asked(scontrol):
    assert check_slurm({"PATH": "/nonexistent"}).found == "not on this machine"
    up = scontrol("echo 'Slurmctld(primary) at n1 is UP'")
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    assert check_slurm(up).level == "ok"
    assert check_slurm(up | job).found == "Slurmctld(primary) at n1 is UP; this is job 7 on n[1-2]"
    down = scontrol("echo 'Slurmctld(primary) at n1 is DOWN'; echo second >&2; exit 1")
    assert (check_slurm(down).level, check_slurm(down | job).level) == ("warning", "failed")
    assert check_slurm(down).found == "the controller doesn't answer (second)"
    assert check_slurm(job | {"PATH": "/nonexistent"}).level == "warning"
