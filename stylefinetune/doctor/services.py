"""Checks the login of Weights & Biases, and Slurm."""

import base64
import json
import netrc
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from stylefinetune.doctor.finding import Finding

_SERVER = "https://api.wandb.ai"
_SECONDS = 5
_QUERY = json.dumps({"query": "query Viewer { viewer { username entity } }"}).encode()
_OFFLINE = "logging continues offline, and the next start sends it"


def check_wandb(environment: Mapping[str, str]) -> Finding:
    """Check that the W&B server accepts the API key, if there is one; it has five seconds to answer."""
    name, server = "W&B", environment.get("WANDB_BASE_URL") or _SERVER
    if (mode := environment.get("WANDB_MODE")) in {"offline", "dryrun", "disabled"}:
        return Finding(name, "ok", f"WANDB_MODE is {mode}, so the server isn't asked")
    key = environment.get("WANDB_API_KEY") or _key_of_netrc(server)
    if not key:
        remedy = "run wandb login, or set --tracking.wandb disabled"
        return Finding(name, "warning", "there is no API key, so runs are logged offline", remedy)
    return _check_key(server, key)


def _check_key(server: str, key: str) -> Finding:
    name = "W&B"
    try:
        user = _ask_for_user(server, key)
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return Finding(name, "failed", f"{server} refuses the API key", "run wandb login --relogin")
        return Finding(name, "warning", f"{server} answers with status {error.code}", _OFFLINE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Finding(name, "warning", f"{server} can't be reached ({reason})", _OFFLINE)
    if not user:
        return Finding(name, "failed", f"{server} doesn't know the API key", "run wandb login --relogin")
    return Finding(name, "ok", f"{server} knows the API key as {user}")


def _key_of_netrc(server: str) -> str | None:
    try:
        found = netrc.netrc().authenticators(urlsplit(server).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def _ask_for_user(server: str, key: str) -> str | None:
    login = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    if urlsplit(server).scheme not in {"http", "https"}:
        raise ValueError("WANDB_BASE_URL must begin with https://")
    request = urllib.request.Request(f"{server.rstrip('/')}/graphql", _QUERY, headers)  # noqa: S310 -- checked above
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
        viewer = (json.load(response).get("data") or {}).get("viewer") or {}
    return viewer.get("username") or viewer.get("entity")


def check_slurm(environment: Mapping[str, str]) -> Finding:
    """Check that Slurm's controller answers, where Slurm is installed."""
    name, program = "Slurm", shutil.which("scontrol", path=environment.get("PATH"))
    job = environment.get("SLURM_JOB_ID")
    where = f"; this is job {job} on {environment.get('SLURM_JOB_NODELIST', '?')}" if job else ""
    if program is None:
        if job:
            return Finding(name, "warning", f"scontrol isn't on PATH{where}", "the job can't requeue itself")
        return Finding(name, "ok", "not on this machine")
    is_up, answer = _ping(program)
    if is_up:
        return Finding(name, "ok", f"{answer}{where}")
    remedy = "see SLURM_CONF, or ask the cluster's administrator; runs without Slurm don't need it"
    return Finding(name, "failed" if job else "warning", f"the controller doesn't answer ({answer}){where}", remedy)


def _ping(program: str) -> tuple[bool, str]:
    """Return whether Slurm's controller answers, and the last line of the answer."""
    try:
        done = subprocess.run([program, "ping"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
    return done.returncode == 0 and " UP" in done.stdout, lines[-1].strip()
