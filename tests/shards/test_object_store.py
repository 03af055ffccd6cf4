"""The objects of a store, with an S3 server on this machine, and the errors of a store."""

import errno
import sys
import threading
import time

import pytest
import requests

from shards import object_store
from shards.__main__ import main
from shards.errors import ShardsError
from shards.object_store import ObjectStore
from tests.loopback import Answer
from tests.stores import CREDENTIALS, client, s3_server


@pytest.fixture
def store(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("store", ["memory", "bucket"], indirect=True)
def test_objects_are_written_listed_read_copied_and_removed(store, tmp_path):
    objects, others = ObjectStore(f"{store}/a DIR/"), ObjectStore(f"{store}/a DIR2")
    assert objects.list() == {}
    (tmp_path / "file").write_bytes(b"12345")
    objects.put(tmp_path / "file", "train/0.tar")
    objects.write("blocks/a.json", b"{}")
    objects.write("blocks/a.json", b"[1]")
    others.write("other", b"")
    assert objects.list() == {"train/0.tar": 5, "blocks/a.json": 3}
    assert objects.read("blocks/a.json") == b"[1]"
    assert objects.read("blocks/b.json") is None
    assert objects.read_range("train/0.tar", 1, 4) == b"234"
    found = objects.find_object("train/0.tar")
    assert found == objects.list_objects()["train/0.tar"]
    assert found.size == 5
    assert abs(found.mtime_ns / 1e9 - time.time()) < 3600
    assert objects.find_object("train/9.tar") is None
    objects.copy("train/0.tar", "train/1.tar")
    objects.get("train/1.tar", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"12345"
    objects.remove(["train/0.tar", "train/9.tar"])
    assert set(objects.list()) == {"train/1.tar", "blocks/a.json"}
    assert set(others.list()) == {"other"}


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sftp://host/DIR", "must be s3:// or gs://"),
        ("https://host/DIR", "must be s3:// or gs://"),
        ("s3://", "s3:// names no bucket"),
    ],
)
def test_other_protocols_and_urls_without_a_bucket_are_refused(url, named):
    with pytest.raises(ShardsError, match=named):
        ObjectStore(url)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ShardsError, match=r"^gs://bucket/DIR: gs:// needs .*: pip install gcsfs$"):
        ObjectStore("gs://bucket/DIR")


def assemble_to(url, path, capsys):
    """Run assemble, which must fail, and return its error of one line."""
    assert main(["assemble", f"--list={path}", f"--out={url}", "--workers=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def path(server, draw_jpg, write_list):
    return write_list([{"image_url": server.add("/a.jpg", Answer(draw_jpg(0))), "label": 0, "split": "train"}])


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_an_error_of_one_line(path, server, capsys, tmp_path):
    error = assemble_to("s3://no-such-bucket/x", path, capsys)
    assert "s3://no-such-bucket/x: not found" in error
    assert "bucket" in error
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


def test_an_unreachable_server_is_an_error_of_one_line(bucket, path, server, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # a port without a server
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    error = assemble_to(f"{bucket}/x", path, capsys)
    assert f"{bucket}/x fails (EndpointConnectionError: Could not connect" in error
    assert server.requests == []


def test_missing_credentials_are_an_error_of_one_line(bucket, path, capsys, monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert "Unable to locate credentials" in assemble_to(f"{bucket}/x", path, capsys)


def test_wrong_credentials_are_an_error_of_one_line(bucket, s3_endpoint, path, capsys):
    def check_credentials_after(requests_: str) -> None:
        requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=requests_, timeout=10).raise_for_status()

    check_credentials_after("0")  # the server knows no user
    try:
        error = assemble_to(f"{bucket}/x", path, capsys)
    finally:
        check_credentials_after("inf")
    assert f"{bucket}/x: refused" in error
    assert "check the credentials" in error


@pytest.mark.usefixtures("bucket")
def test_transient_failures_are_retried(monkeypatch):
    """The server stops, and starts again on the same port during the retries."""
    monkeypatch.setattr(object_store, "_RETRY_DELAYS", (0.2, 0.5, 1.0, 2.0, 4.0))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client().create_bucket(Bucket="passing")
        objects = ObjectStore("s3://passing/x")
        objects.write("a", b"1")
    with pytest.raises(ShardsError, match="fails"):
        objects.list()  # the first call isn't retried
    port = int(endpoint.rpartition(":")[2])
    stopping = threading.Event()

    def restart():
        stopping.wait(0.5)
        with s3_server(port):
            stopping.wait(20)

    server = threading.Thread(target=restart)
    server.start()
    try:
        objects.write("b", b"2")
        assert objects.list() == {"a": 1, "b": 1}
    finally:
        stopping.set()
        server.join()


def test_a_full_disk_on_this_machine_is_not_reported_as_an_error_of_the_store(memory, tmp_path, monkeypatch):
    objects = ObjectStore(f"{memory}/x")
    objects.write("a", b"1")

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(objects._fs), "get_file", fill)
    with pytest.raises(OSError, match="No space left"):
        objects.get("a", tmp_path / "a")
