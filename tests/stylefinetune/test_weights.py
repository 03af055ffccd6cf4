import re

import pytest

from stylefinetune.errors import UserError
from stylefinetune.models.weights import load_weights
from tests.loopback import Answer
from tests.programs import python
from tests.stylefinetune.models.test_weights import caffemodel, net

NOWHERE = "http://127.0.0.1:9"  # no server listens there


def test_published_weights_are_downloaded_by_a_command_and_used_by_name(tmp_path, monkeypatch, server):
    """No other file has the published hash, so the stand-in is refused with a message."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"stylefinetune weights bvlc_reference_caffenet"):
        load_weights(net(), "bvlc_reference_caffenet", lambda _: None)
    server.add("/caffe/bvlc_reference_caffenet.caffemodel", Answer(b"another file"))
    command = [
        "-m",
        "stylefinetune.weights",
        "bvlc_reference_caffenet",
        f"--mirror={server.url}/caffe",
    ]
    done = python(*command, env={"XDG_CACHE_HOME": str(tmp_path), "http_proxy": NOWHERE, "no_proxy": "127.0.0.1"})
    assert done.returncode == 2
    assert done.stdout == ""
    line = r"error: bvlc_reference_caffenet can't be fetched: \S+/caffe has another file: its sha1 is \w+, not 4c8d77de"
    assert re.match(line, done.stderr)
    assert "; http://dl.caffe.berkeleyvision.org can't be reached. " in done.stderr
    assert done.stderr.count("\n") == 1
    cached = tmp_path / "stylefinetune" / "bvlc_reference_caffenet.caffemodel"
    caffemodel(cached, fc7=[(32, 32), (32,)])
    tuned = net()
    load_weights(tuned, "bvlc_reference_caffenet", lambda _: None)
    assert tuned.get_submodule("fc7").bias.unique().tolist() == [1.0]
