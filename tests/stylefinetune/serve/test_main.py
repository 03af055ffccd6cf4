import http.client
import json
import re
import signal
import subprocess
import sys

import pytest

from stylefinetune.errors import UserError
from stylefinetune.serve import __main__ as command
from stylefinetune.serve import server as server_module
from tests.programs import ROOT, python

TOKEN = "a-token-of-a-test-1234"

pytestmark = pytest.mark.xdist_group("serve")  # with the other tests of a trained run


@pytest.fixture
def start(monkeypatch, capsys, network):
    """Run the command, which ends at once instead of answering requests; return its application and what it prints."""
    monkeypatch.delenv("STYLEFINETUNE_TOKEN", raising=False)
    apps = []
    real = server_module.build_server
    monkeypatch.setattr(server_module, "build_server", lambda app, *rest: apps.append((app, *rest)) or real(app, *rest))

    def start_with(*flags, checkpoint=network.saved.path, before_end=lambda _: None):
        monkeypatch.setattr(
            server_module, "run_server", lambda server, _: (server._on_start(), before_end(apps[-1][0]))
        )
        command.serve([str(checkpoint), "--port=0", *map(str, flags)])
        return apps[-1], capsys.readouterr().out

    return start_with


def test_a_server_answers_and_stops(network, picture, capsys, tmp_path):
    """A process: signals, the exit code and the port are those of a process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stylefinetune", "serve", network.saved.path, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"serving (.*) at http://(127\.0\.0\.1:\d+)/\n", line)
        assert match, line + process.stderr.read()
        connection = http.client.HTTPConnection(match[2], timeout=60)
        connection.request("POST", "/api/predict", picture)
        found = json.loads(connection.getresponse().read())["classes"]
        # A body that isn't complete when the server is to stop is read to its end.
        connection.putrequest("POST", "/api/predict")
        connection.putheader("Content-Length", str(len(picture)))
        connection.endheaders()
        connection.send(picture[:100])
        process.send_signal(signal.SIGTERM)
        connection.send(picture[100:])
        assert json.loads(connection.getresponse().read())["classes"] == found
        assert (process.wait(60), process.stderr.read()) == (0, "")
    finally:
        process.kill()
        process.communicate()
    (tmp_path / "a.jpg").write_bytes(picture)
    from stylefinetune.predict import predict

    predict([str(tmp_path / "a.jpg"), f"--checkpoint={network.saved.path}", "--format=jsonl"])
    assert json.loads(capsys.readouterr().out)["classes"] == found


def test_a_token_is_needed_where_others_can_reach_the_server(start, monkeypatch):
    from starlette.testclient import TestClient

    (app, *_), line = start("--host=0.0.0.0")
    token = re.fullmatch(r"serving .* at http://[^/]+:\d+/\?token=([\w-]{32})\n", line)[1]
    client = TestClient(app, "http://127.0.0.1")
    assert client.get("/api/model").status_code == 401
    assert client.get("/api/model", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert start("--host=0.0.0.0")[1] != line
    assert "token" not in start()[1]
    monkeypatch.setenv("STYLEFINETUNE_TOKEN", TOKEN)
    for flags in ([], ["--host=0.0.0.0"], [f"--token={TOKEN}"]):  # known already, so that it isn't printed
        (app, *_), line = start(*flags)
        assert "token" not in line
        client = TestClient(app, "http://127.0.0.1")
        assert client.get("/api/model").status_code == 401
        assert client.get("/api/model", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_flags_reach_the_server(start, trained, tmp_path):
    from starlette.testclient import TestClient

    from stylefinetune.evaluate import evaluate

    evaluate([str(trained), "--workers=0", f"--out={tmp_path}"])
    flags = [
        "--top=2",
        "--max_bytes=1000",
        "--no-url-fetch",
        "--allowed_host=pictures.example",
        f"--evaluation={tmp_path}",
    ]
    (app, proxy, _), _ = start(*flags, "--trusted_proxy=10.0.0.1", checkpoint=trained)
    assert proxy == "10.0.0.1"
    found = TestClient(app, "http://pictures.example").get("/api/model").json()
    assert (found["top"], found["max_bytes"], found["url_fetch"], found["iteration"]) == (2, 1000, False, 12)
    page = TestClient(app, "http://127.0.0.1").get("/").text
    assert "11 pictures of split test" in page
    assert "another checkpoint" not in page
    (app, *_), _ = start(checkpoint=trained)
    assert (
        f"stylefinetune evaluate {trained} --out {trained}/evaluation"
        in TestClient(app, "http://localhost").get("/").text
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--top=0", "--top is 0; it must be above 0"),
        ("--rate=-1", "--rate is -1; it must not be negative"),
        ("--port=70000", "--port is 70000; it must be from 0 to 65535"),
        ("--host=", "--host is empty"),
        ("--token=short", "the token must have at least 16 characters"),
        ("--token=with a space in it", "of ASCII and without spaces"),
        ("--evaluation=none", "--evaluation: none has no predictions.parquet; evaluate RUN --out none writes it"),
        ("--host=no.such.name.invalid", "can't be listened to"),
        ("--trusted_proxy=proxy", "--trusted_proxy is 'proxy'; it must be an IP address, such as 10.0.0.1"),
        ("--toq=1", "unknown argument --toq"),
    ],
)
def test_wrong_flags(start, flag, message):
    with pytest.raises(UserError) as raised:
        start(flag)
    assert message in str(raised.value)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = python("-m", "stylefinetune.serve", tmp_path / "none")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")


def test_without_the_packages_the_error_names_the_extra(monkeypatch, network):
    for name in [name for name in sys.modules if name.startswith(("stylefinetune.serve.", "starlette"))]:
        if name != command.__name__:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(UserError, match=r"pip install 'stylefinetune\[serve\]'"):
        command.serve([str(network.saved.path)])


def test_a_caffemodel_answers_as_its_checkpoint(start, network, picture, tmp_path):
    from starlette.testclient import TestClient

    from stylefinetune.export.caffe_files import write_caffe

    answers = []

    def ask(app):
        client = TestClient(app, "http://127.0.0.1")
        answers.append(client.post("/api/predict", content=picture).json()["classes"])

    deploy, weights, mean, labels = write_caffe(network.saved, tmp_path)
    flags = [f"--deploy={deploy}", f"--mean={mean}", f"--class_names={labels}"]
    start(*flags, checkpoint=weights, before_end=ask)
    start(before_end=ask)
    assert answers[0] == answers[1]
