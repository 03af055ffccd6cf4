"""Object stores for the tests: an S3 server on this machine, and the objects under a URL of any store."""

import contextlib
import functools
import logging
import os
from pathlib import Path

import boto3
import fsspec.core
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

from tests.assembly import VOLATILE

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server(port: int = 0):
    """Run moto's S3 server on a port, by default a free one, and yield its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # otherwise it logs every request
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def client():
    """Return boto3's client of the server that the environment names."""
    return _client(os.environ.get("AWS_ENDPOINT_URL"))


@functools.cache
def _client(_endpoint):
    return boto3.client("s3")


def open_store(url: str):
    """Return a file system of fsspec, and the URL's path within it."""
    protocol = url.partition("://")[0]
    fs = _file_system(protocol, os.environ.get("AWS_ENDPOINT_URL"))
    return fs, fs._strip_protocol(url)


@functools.cache  # a client of S3 takes a moment to create
def _file_system(protocol, _endpoint):
    return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)


def names_of(url: str) -> set[str]:
    """Return the names of all objects under the URL."""
    fs, base = open_store(url)
    return {name[len(base) + 1 :] for name in fs.find(base)}


def objects_of(url: str) -> dict[str, bytes]:
    """Return the bytes of all objects, by their names under the URL."""
    fs, base = open_store(url)
    names = fs.find(base)
    return {name[len(base) + 1 :]: content for name, content in fs.cat(names).items()} if names else {}


def download(url: str, folder: Path) -> Path:
    """Copy all objects under a URL to a folder, as a user would before training."""
    _write(objects_of(url), folder)
    return folder


def _write(objects: dict[str, bytes], folder: Path) -> None:
    for name, content in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def lasting_objects(url: str, folder: Path) -> dict[str, object]:
    """Return all objects; of outcomes only the columns that are the same in every run. Copies them to the folder."""
    objects = objects_of(url)
    _write(objects, folder)
    found: dict[str, object] = dict(objects)
    for name in found:
        if name.endswith("outcomes.parquet"):
            rows = pq.read_table(folder / name).to_pylist()
            found[name] = [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
    return found


def local_objects(root: Path, folder: Path) -> dict[str, object]:
    """Return the files of a folder as `lasting_objects` returns objects."""
    return lasting_objects(f"file://{root}", folder)
