"""A W&B server on 127.0.0.1 with the requests of a run: start, resume, log, artifacts, finish."""

import base64
import contextlib
import dataclasses
import http.server
import json
import re
import socket
import threading
import urllib.parse
from typing import Any

from tests import wandb_artifacts

KEY = "0" * 40
ENTITY, PROJECT = "loopback", "stylefinetune"


@dataclasses.dataclass
class RemoteRun:
    """A run on the server.

    Attributes:
        name: its display name.
        config: its settings, as last sent.
        variables: what else was sent about it, as first sent: its project, tags and so on.
        files: lines of wandb-history.jsonl and the other files, each at the offset that the request gave.
        uploads: the content of each uploaded file by name.
        exit_code: None while the run is going, also after it was resumed.
    """

    name: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    variables: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    uploads: dict[str, bytes] = dataclasses.field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Returns the logged rows in the order of their offsets."""
        return [json.loads(line) for line in self.files.get("wandb-history.jsonl", [])]

    @property
    def summary(self) -> dict[str, Any]:
        """Returns the summary as last sent."""
        return json.loads((self.files.get("wandb-summary.json") or ["{}"])[-1])

    def lines(self, file: str) -> list[str]:
        return self.files.get(f"wandb-{file}.jsonl", [])


class WandbServer:
    """Runs within a `with` block; between `stop` and `start` it refuses connections.

    Attributes:
        runs: by id.
        views: workspaces and reports, as sent.
        artifacts: their versions and files.
        port: stays the same after a stop and a start.
    """

    def __init__(self):
        self.runs: dict[str, RemoteRun] = {}
        self.views: list[dict[str, Any]] = []
        self.artifacts = wandb_artifacts.ArtifactStore(ENTITY, PROJECT)
        self.port = 0
        self.lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.owner = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self):
        """Close the address and every connection, as when the server is killed."""
        if self._server is None:
            return
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
        self._server.hang_up()
        self._server = None

    @property
    def account(self) -> dict[str, str]:
        """Returns the environment of a user of this server."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": KEY}

    def upsert(self, name: str, **sent: Any) -> dict[str, Any]:
        run = self.runs.setdefault(name, RemoteRun())
        run.name = sent.get("displayName") or run.name
        run.variables = {variable: value for variable, value in sent.items() if value} | run.variables
        if sent.get("config"):
            run.config = json.loads(sent["config"])
        run.exit_code = None
        return run_record(name, run)

    def append(self, name: str, sent: dict[str, Any]):
        run = self.runs[name]
        for file, chunk in (sent.get("files") or {}).items():
            # After a lost response W&B sends the chunk again, with the same offset.
            lines, first = run.files.setdefault(file, []), chunk["offset"]
            assert first <= len(lines), f"{file} of {len(lines)} lines got lines from {first} on"
            lines[first : first + len(chunk["content"])] = chunk["content"]
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


def run_record(name: str, run: RemoteRun) -> dict[str, Any]:
    """Return a run in the words of W&B's API."""
    history, events = run.lines("history"), run.lines("events")
    entity = {"id": "1", "name": ENTITY}
    return {
        "id": name,
        "name": name,
        "displayName": run.name,
        "project": {"id": "1", "name": PROJECT, "entity": entity},
        "config": json.dumps(run.config),
        "summaryMetrics": (run.files.get("wandb-summary.json") or ["{}"])[-1],
        "historyLineCount": len(history),
        "eventsLineCount": len(events),
        "logLineCount": 0,
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "tags": [],
        "wandbConfig": json.dumps({"t": 1}),
    }


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: WandbServer

    def __init__(self, *arguments):
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self):
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        pass  # a client may hang up, and so may `hang_up`


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = -1  # headers and body leave in one packet

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.owner.lock:
            self._send(*self._answer(json.loads(body)))

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/artifact/"):
            if self.server.owner.artifacts.gate:
                self.server.owner.artifacts.gate.wait(60)
            with self.server.owner.lock:
                self._send(self.server.owner.artifacts.upload(self.path, body), {})
            return
        _, _, run, name = self.path.split("/", 3)
        self.server.owner.runs[run].uploads[urllib.parse.unquote(name)] = body
        self._send(200, {})

    def _answer(self, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode():
            return 401, {"errors": [{"message": "no such key"}]}
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream:
            self.server.owner.append(stream[1], sent)
            return 200, {"exitcode": None, "limits": {}}
        return self._query(re.match(r"\w+ (\w+)", sent["query"].strip())[1], sent.get("variables") or {})

    def _query(self, name: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answers = {
            "Viewer": self.viewer,
            "ServerFeaturesQuery": self.features,
            "OrganizationCoreWeaveOrganizationID": self.organization,
            "RunResumeStatus": self.status,
            "UpsertBucket": self.upsert,
            "CreateRunFiles": self.create_files,
            "GetDefaultEntity": self.viewer,
            "ProjectInternalId": self.project_id,
            "GetProjects": self.projects,
            "UpsertView2": self.upsert_view,
            "upsertView": self.upsert_view,
        }
        if name in wandb_artifacts.KNOWN:
            return 200, {"data": self.server.owner.artifacts.answer(name, variables, self.headers["Host"])}
        if name not in answers:
            return 400, {"errors": [{"message": f"this server doesn't know {name}"}]}
        return 200, {"data": answers[name](**variables)}

    def viewer(self):
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": {**viewer, "teams": {"edges": []}}}

    def features(self):
        return {"serverInfo": {"features": []}}

    def organization(self, **_):
        return {"entity": {"organization": None}}

    def status(self, name, **_):
        run = self.server.owner.runs.get(name)
        model = {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}}
        return {"model": {**model, "bucket": run_record(name, run) if run else None}}

    def upsert(self, name, **sent):
        new = name not in self.server.owner.runs
        return {"upsertBucket": {"bucket": self.server.owner.upsert(name, **sent), "inserted": new}}

    def create_files(self, run, files, **_):
        url = f"http://{self.headers['Host']}/upload/{run}"
        named = [{"name": file, "uploadUrl": f"{url}/{urllib.parse.quote(file)}"} for file in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": named}}

    def project_id(self, **_):
        return {"project": {"id": "1", "internalId": "1"}}

    def projects(self, entity, **_):
        node = {"id": "1", "name": PROJECT, "entityName": entity, "createdAt": "", "isBenchmark": False, "user": None}
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": "1"}], "pageInfo": page}}

    def upsert_view(self, **sent):
        self.server.owner.views.append(sent)
        project = {"id": "1", "name": sent["projectName"], "entityName": sent["entityName"]}
        shown = {name: sent[name] for name in ("type", "name", "displayName", "description", "spec")}
        view = {
            "id": f"Vmlldzo{len(self.server.owner.views)}",
            "project": project,
            "updatedAt": "2026-01-01T00:00:00Z",
            **shown,
        }
        return {"upsertView": {"view": view, "inserted": True}}

    def _send(self, status: int, answer: dict[str, Any]):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
