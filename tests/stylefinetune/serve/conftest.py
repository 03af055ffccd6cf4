import contextlib
import threading

import pytest
import torch
from starlette.testclient import TestClient

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.serve.access import Access
from stylefinetune.serve.app import build_app
from stylefinetune.serve.classifier import PictureClassifier
from stylefinetune.serve.server import build_server, open_socket
from stylefinetune.serve.settings import Model, Settings
from tests import drawn_checkpoints, odd_pictures

MODEL = Model("mine <b>", {"checkpoint": "runs/mine", "arch": "caffenet", "iteration": 5}, "stylefinetune evaluate RUN")
MODEL.facts.update(loss="softmax", input_size=[43, 43])
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A network of three classes with random weights, so small that no probability is 0 or 1."""
    _, path = drawn_checkpoints.save(tmp_path_factory.mktemp("run"), scale=0.1)
    return PictureNetwork(read_checkpoint(path), torch.device("cpu"))


@pytest.fixture(scope="session")
def picture():
    return odd_pictures.encode(".jpg", odd_pictures.smooth(1))


@pytest.fixture
def open_app(network):
    """Return the application of a server with these settings."""
    with contextlib.ExitStack() as stack:

        def open_with(gallery=None, token=None, hosts=(), classifier=None, **settings):
            values = Settings(**settings)
            used = classifier or stack.enter_context(PictureClassifier(network, values))
            return build_app(MODEL, used, gallery, Access(hosts, token, values.rate), values)

        yield open_with


@pytest.fixture
def open_client(open_app):
    """Return a client of a server with these settings."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            TestClient(open_app(**settings), ADDRESS, raise_server_exceptions=False, follow_redirects=False)
        )


@pytest.fixture
def client(open_client):
    return open_client()


@contextlib.contextmanager
def running(app):
    """Run a server in a thread, and yield its address, such as http://127.0.0.1:1234."""
    listener = open_socket("127.0.0.1", 0)
    started = threading.Event()
    server = build_server(app, None, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(60)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
