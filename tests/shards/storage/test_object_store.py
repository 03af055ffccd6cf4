"""A store's objects, against a real S3 server on this machine; and what becomes of a store's refusals."""

import errno
import sys
import threading

import pytest
import requests

from shards.__main__ import main
from shards.errors import ShardsError
from shards.storage import object_store
from shards.storage.object_store import ObjectStore
from tests.loopback import Answer
from tests.stores import CREDENTIALS, client, s3_server


@pytest.fixture
def store(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("store", ["memory", "bucket"], indirect=True)
def test_objects_are_put_listed_read_copied_and_removed(store, tmp_path):
    place, beside = ObjectStore(f"{store}/a DIR/"), ObjectStore(f"{store}/a DIR2")
    assert place.list() == {}
    (tmp_path / "file").write_bytes(b"12345")
    place.put(tmp_path / "file", "train/0.tar")
    place.write("blocks/a.json", b"{}")
    place.write("blocks/a.json", b"[1]")
    beside.write("other", b"")
    assert place.list() == {"train/0.tar": 5, "blocks/a.json": 3}
    assert place.read("blocks/a.json") == b"[1]"
    assert place.read("blocks/b.json") is None
    place.copy("train/0.tar", "train/1.tar")
    place.get("train/1.tar", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"12345"
    place.remove(["train/0.tar", "train/9.tar"])
    assert set(place.list()) == {"train/1.tar", "blocks/a.json"}
    assert set(beside.list()) == {"other"}


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sftp://host/DIR", "must be s3:// or gs://"),
        ("https://host/DIR", "must be s3:// or gs://"),
        ("s3://", "s3:// names no bucket"),
    ],
)
def test_what_is_no_store_is_refused(url, named):
    with pytest.raises(ShardsError, match=named):
        ObjectStore(url)


def test_a_library_that_is_not_here_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ShardsError, match=r"^gs://bucket/DIR: gs:// needs .*: pip install gcsfs$"):
        ObjectStore("gs://bucket/DIR")


def assemble_to(url, path, capsys):
    """Runs assemble, which must fail, and returns its one line."""
    assert main(["assemble", f"--list={path}", f"--out={url}", "--workers=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def path(server, draw_jpg, write_list):
    return write_list([{"image_url": server.add("/a.jpg", Answer(draw_jpg(0))), "label": 0, "split": "train"}])


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_one_line(path, server, capsys, tmp_path):
    error = assemble_to("s3://no-such-bucket/x", path, capsys)
    assert "s3://no-such-bucket/x: not found" in error
    assert "bucket" in error
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


def test_a_server_that_is_not_there_is_one_line(bucket, path, server, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    error = assemble_to(f"{bucket}/x", path, capsys)
    assert f"{bucket}/x fails (EndpointConnectionError: Could not connect" in error
    assert server.requests == []


def test_without_credentials_it_is_one_line(bucket, path, capsys, monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert "Unable to locate credentials" in assemble_to(f"{bucket}/x", path, capsys)


def test_wrong_credentials_are_one_line(bucket, s3_endpoint, path, capsys):
    def ask_for_credentials_after(requests_: str) -> None:
        requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=requests_, timeout=10).raise_for_status()

    ask_for_credentials_after("0")  # and it knows nobody
    try:
        error = assemble_to(f"{bucket}/x", path, capsys)
    finally:
        ask_for_credentials_after("inf")
    assert f"{bucket}/x: refused" in error
    assert "check the credentials" in error


@pytest.mark.usefixtures("bucket")
def test_what_fails_for_a_while_is_tried_again(monkeypatch):
    """The server goes, and comes back at the same place while the second try waits."""
    monkeypatch.setattr(object_store, "_RETRY_DELAYS", (0.2, 0.5, 1.0, 2.0, 4.0))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client().create_bucket(Bucket="passing")
        place = ObjectStore("s3://passing/x")
        place.write("a", b"1")
    with pytest.raises(ShardsError, match="fails"):
        place.list()  # the first look isn't patient
    port = int(endpoint.rpartition(":")[2])
    ending = threading.Event()

    def come_back():
        ending.wait(0.5)
        with s3_server(port):
            ending.wait(20)

    server = threading.Thread(target=come_back)
    server.start()
    try:
        place.write("b", b"2")
        assert place.list() == {"a": 1, "b": 1}
    finally:
        ending.set()
        server.join()


def test_a_full_disk_here_is_not_the_stores_fault(memory, tmp_path, monkeypatch):
    place = ObjectStore(f"{memory}/x")
    place.write("a", b"1")

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(place._fs), "get_file", fill)
    with pytest.raises(OSError, match="No space left"):
        place.get("a", tmp_path / "a")
