import base64
import hashlib
import json

import pytest
import requests

from tests.wandb_server import KEY, WandbServer


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


def post(server, path, body, key=KEY):
    url = server.account["WANDB_BASE_URL"] + path
    return requests.post(url, json=body, auth=("api", key), timeout=5)


def create(server, name):
    query = "mutation UpsertBucket ($name: String) { }"
    return post(server, "/graphql", {"query": query, "variables": {"name": name, "displayName": "a run"}}).json()


def stream(server, name, offset, *rows, **more):
    history = {"offset": offset, "content": [f'{{"_step": {row}}}' for row in rows]}
    path = f"/files/loopback/stylefinetune/{name}/file_stream"
    return post(server, path, {"files": {"wandb-history.jsonl": history}, **more})


def test_a_run_is_created_logged_to_and_resumed(server):
    assert create(server, "abcd")["data"]["upsertBucket"]["inserted"]
    stream(server, "abcd", 0, 0, 5, 10)
    stream(server, "abcd", 2, 10, 15, complete=True, exitcode=0)  # repeats a chunk
    assert [row["_step"] for row in server.runs["abcd"].history] == [0, 5, 10, 15]
    assert server.runs["abcd"].exit_code == 0
    query = "query RunResumeStatus ($name: String!) { }"
    found = post(server, "/graphql", {"query": query, "variables": {"name": "abcd"}}).json()
    bucket = found["data"]["model"]["bucket"]
    assert (bucket["historyLineCount"], bucket["historyTail"]) == (4, '["{\\"_step\\": 15}"]')
    assert not create(server, "abcd")["data"]["upsertBucket"]["inserted"]
    assert server.runs["abcd"].exit_code is None


def test_unknown_queries_and_keys_are_refused(server):
    assert post(server, "/graphql", {"query": "query Other { }", "variables": None}).status_code == 400
    assert post(server, "/graphql", {"query": "query Viewer { }", "variables": None}, key="1" * 40).status_code == 401


def put(url, body):
    return requests.put(url, data=body, timeout=5).status_code


def log_artifact(server, content, *aliases):
    """Log a version of an artifact with one file; return what the server answered to its creation."""
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()

    def ask(name, **variables):
        query = {"query": f"mutation {name} () {{ }}", "variables": variables}
        return post(server, "/graphql", query).json()["data"]

    wanted = {"artifactCollectionName": "a", "artifactTypeName": "model", "runName": "abcd", "metadata": "{}"}
    wanted |= {"digest": digest, "enableDigestDeduplication": True, "aliases": [{"alias": one} for one in aliases]}
    created = ask("CreateArtifact", input=wanted)["createArtifact"]["artifact"]
    if created["state"] == "PENDING":
        file = {"artifactID": created["id"], "md5": digest}
        files = ask("CreateArtifactFiles", input={"artifactFiles": [file]})["createArtifactFiles"]["files"]["edges"]
        url = files[0]["node"]["uploadUrl"]
        assert put(url, b"other content") == 400
        assert put(url, content) == 200
        manifest = ask("CreateArtifactManifest", artifactID=created["id"], includeUpload=True)
        manifest_url = manifest["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
        assert put(manifest_url, json.dumps({"contents": {"file": {"digest": digest}}})) == 200
        ask("CommitArtifact", artifactID=created["id"])
    return created


def test_an_artifact_has_its_files_and_the_aliases_move(server):
    log_artifact(server, b"first", "latest", "iter_5")
    log_artifact(server, b"second", "latest")
    first, second = server.artifacts.named("a")
    assert (first.files, second.files) == ({"file": b"first"}, {"file": b"second"})
    assert (server.artifacts.aliases_of(first), server.artifacts.aliases_of(second)) == ({"iter_5"}, {"latest"})
    assert log_artifact(server, b"first", "best")["state"] == "COMMITTED"
    assert server.artifacts.named("a") == [first, second]
    assert (first.times_logged, server.artifacts.aliases_of(first)) == (2, {"iter_5", "best"})


def test_a_stopped_server_refuses_connections_and_keeps_its_runs(server):
    create(server, "abcd")
    server.stop()
    with pytest.raises(requests.ConnectionError):
        create(server, "abcd")
    server.start()
    assert not create(server, "abcd")["data"]["upsertBucket"]["inserted"]
