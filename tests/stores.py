"""What lies under a URL, of an S3 server on this machine or of any other store."""

import contextlib
import logging
from pathlib import Path

import boto3
import fsspec.core
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

from tests.assembly import VOLATILE

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server(port: int = 0):
    """Runs moto's S3 server on a port, by default a free one, and yields its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def client():
    """Returns boto3's client of the server that the environment names."""
    return boto3.client("s3")


def open_store(url: str):
    return fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)


def names_of(url: str) -> set[str]:
    """Returns every object's name under the URL."""
    fs, base = open_store(url)
    return {name[len(base) + 1 :] for name in fs.find(base)}


def objects_of(url: str) -> dict[str, bytes]:
    """Returns every object's bytes, by its name under the URL."""
    fs, base = open_store(url)
    return {name[len(base) + 1 :]: fs.cat_file(name) for name in fs.find(base)}


def download(url: str, folder: Path) -> Path:
    """Copies what lies under a URL, as its user would to train on it."""
    for name, content in objects_of(url).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def lasting_objects(url: str, folder: Path) -> dict[str, object]:
    """Returns all objects, but of the ledgers only what doesn't differ from run to run."""
    found: dict[str, object] = dict(objects_of(url))
    download(url, folder)
    for name in found:
        if name.endswith("outcomes.parquet"):
            rows = pq.read_table(folder / name).to_pylist()
            found[name] = [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
    return found
