import json

import pytest

from shards.format import tar  # noqa: F401 -- keeps webdataset from importing torch

from webdataset import TarWriter  # isort: skip


@pytest.fixture
def write_tar(tmp_path):
    """Write samples, each a key and its members by extension, with webdataset's writer, and return the tar's path."""

    def write(name, samples, **settings):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with TarWriter(str(path), encoder=False, **settings) as writer:
            for key, members in samples.items():
                encoded = {
                    name: json.dumps(body).encode() if isinstance(body, dict) else body.encode()
                    if isinstance(body, str) else body
                    for name, body in members.items()
                }  # fmt: skip
                writer.write({"__key__": key, **encoded})
        return path

    return write
