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


def test_a_stopped_server_refuses_connections_and_keeps_its_runs(server):
    create(server, "abcd")
    server.stop()
    with pytest.raises(requests.ConnectionError):
        create(server, "abcd")
    server.start()
    assert not create(server, "abcd")["data"]["upsertBucket"]["inserted"]
