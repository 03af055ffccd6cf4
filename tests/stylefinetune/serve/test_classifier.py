import json
import threading
import time

import cv2
import numpy as np
import pytest
import torch

from stylefinetune.errors import UserError
from stylefinetune.predict import predict
from stylefinetune.prediction import fetch
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.serve.classifier import PictureClassifier
from stylefinetune.serve.settings import Settings
from tests import odd_pictures
from tests.loopback import Answer, LoopbackServer, redirect


def as_predict_prints(network, capsys, path, *flags):
    predict([str(path), f"--checkpoint={network.saved.path}", "--format=jsonl", *flags])
    return json.loads(capsys.readouterr().out)["classes"]


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp"])
def test_the_probabilities_are_those_of_predict(client, network, tmp_path, capsys, extension):
    path = tmp_path / f"a{extension}"
    path.write_bytes(odd_pictures.encode(extension, odd_pictures.smooth(3)))
    answer = client.post("/api/predict?top=3", content=path.read_bytes())
    assert answer.json()["classes"] == as_predict_prints(network, capsys, path)
    assert len(client.post("/api/predict?top=1", content=path.read_bytes()).json()["classes"]) == 1


def test_the_preprocessing_of_other_networks_is_that_of_predict(squeezenet, tmp_path, capsys, open_app, picture):
    """Their pictures keep their aspect ratio, and are resized by Pillow."""
    from starlette.testclient import TestClient

    (tmp_path / "a.jpg").write_bytes(picture)
    with PictureClassifier(squeezenet, Settings()) as classifier:
        client = TestClient(open_app(classifier=classifier), "http://127.0.0.1")
        found = client.post("/api/predict", content=picture).json()["classes"]
    assert found == as_predict_prints(squeezenet, capsys, tmp_path / "a.jpg")


@pytest.fixture
def squeezenet(tmp_path):
    import dataclasses

    from stylefinetune.checkpoint import checkpoint
    from stylefinetune.config.data import DataConfig
    from stylefinetune.config.schema import Config, ModelConfig
    from stylefinetune.engines.engine import EngineState
    from stylefinetune.models.build import build_model
    from stylefinetune.models.state import stored_tensors
    from tests.drawn_checkpoints import CLASSES, progress

    data = DataConfig(resize="shorter_side", image_size=40, crop_size=32)
    config = Config(run_dir=str(tmp_path), data=data, model=ModelConfig(arch="squeezenet1_1"))
    net = build_model(config.model, len(CLASSES), [(32, 32)], seed=1)
    state = EngineState(stored_tensors(net), {}, {}, {})
    at = dataclasses.replace(progress(1), picture_size=[40, 40], input_size=[32, 32])
    path = checkpoint.save_checkpoint(tmp_path, at, state, config, (torch.full((1, 1, 3), 110.0),) * 2)
    return PictureNetwork(checkpoint.read_checkpoint(path), torch.device("cpu"))


def test_concurrent_pictures_get_their_own_classes(open_client):
    pictures = [odd_pictures.encode(".png", odd_pictures.smooth(number)) for number in range(24)]
    client = open_client(workers=4, max_wait=20, rate=0)
    alone = [client.post("/api/predict", content=each).json()["classes"] for each in pictures]
    found = [None] * len(pictures)

    def ask(number):
        found[number] = client.post("/api/predict", content=pictures[number]).json()["classes"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        assert [each["label"] for each in one] == [each["label"] for each in other]
        np.testing.assert_allclose(*([each["probability"] for each in classes] for classes in (one, other)), atol=1e-5)


def test_bad_pictures_are_one_line(open_client, picture):
    client = open_client(max_pixels=10_000_000)
    for body, status, reason in (
        (b"some text", 415, "this is not a JPEG, PNG, GIF, WebP or BMP: begins with b'some text'"),
        (picture[: len(picture) // 2], 422, "the picture can't be read: doesn't decode"),
        (picture[:12], 422, "the picture can't be read: jpg without a frame header"),
        (odd_pictures.bomb(), 413, "the picture is too large: 30000x30000 is over 10,000,000 pixels"),
        (b"GIF89a", 422, "the picture can't be read: gif cut within its header"),
    ):
        answer = client.post("/api/predict", content=body)
        assert answer.status_code == status, reason
        assert answer.json()["error"].startswith(reason)
    assert client.post("/api/predict", content=picture).status_code == 200


def test_wrong_numbers_of_classes(client, picture):
    for top in ("0", "4", "-1", "x", "9" * 5000):
        answer = client.post(f"/api/predict?top={top}", content=picture)
        assert answer.status_code == 400
        assert answer.json()["error"].endswith("it must be a number from 1 to 3")


class Held:
    """A network that computes nothing until it is released."""

    def __init__(self, network):
        self._network = network
        self.waits = False
        self.released = threading.Event()
        self.saved, self.size, self.fit = network.saved, network.size, network.fit
        self.error = None

    def __call__(self, pictures):
        if self.waits:
            self.released.wait(60)
        if self.error:
            raise self.error
        return self._network(pictures)


@pytest.fixture
def held(network):
    return Held(network)


def test_a_full_queue_refuses_at_once(held, open_client, picture):
    settings = {"queue": 2, "rate": 0, "max_batch": 1}
    with PictureClassifier(held, Settings(**settings)) as classifier:
        held.waits = True
        client = open_client(classifier=classifier, **settings)
        threads = [
            threading.Thread(target=client.post, args=("/api/predict",), kwargs={"content": picture}) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while classifier._pending < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        answer = client.post("/api/predict", content=picture)
        assert answer.status_code == 503
        assert answer.json() == {"error": "2 pictures are waiting; try again"}
        assert answer.headers["retry-after"] == "1"
        held.released.set()
        for thread in threads:
            thread.join()
        assert client.post("/api/predict", content=picture).status_code == 200
        assert classifier._pending == 0


def test_errors_of_the_network_are_one_line(held, open_client, picture):
    with PictureClassifier(held, Settings()) as classifier:
        client = open_client(classifier=classifier)
        for error, status in (
            (UserError("the scores aren't finite"), 500),
            (RuntimeError("CUDA out of memory"), 503),
            (RuntimeError("a bug"), 500),
        ):
            held.error = error
            answer = client.post("/api/predict", content=picture)
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
        held.error = None
        assert client.post("/api/predict", content=picture).status_code == 200


def test_a_network_that_cant_compute_fails_at_the_start(held):
    held.error = UserError("the scores aren't finite")
    with pytest.raises(UserError, match="finite"):
        PictureClassifier(held, Settings())


def ask_url(client, url, **others):
    answer = client.post("/api/predict_url", json={"url": url, **others})
    return answer.status_code, answer.json()


def test_pictures_at_urls(open_client, server, picture):
    client = open_client(allow_private=True)
    url = server.add("/a.jpg", redirect("/b.jpg"))
    server.add("/b.jpg", Answer(picture))
    status, found = ask_url(client, url, top=2, thumbnail=True)
    assert (status, found["picture"]) == (200, url)
    assert found["classes"] == client.post("/api/predict?top=2", content=picture).json()["classes"]
    kind, _, data = found["thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert data
    assert ask_url(client, url)[1]["thumbnail"] is None


def test_urls_that_have_no_picture(open_client, server, picture, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    client = open_client(allow_private=True, max_bytes=5000)
    assert ask_url(client, f"{server.url}/gone") == (502, {"error": "the URL can't be fetched: the server answers 404"})
    assert ask_url(client, server.add("/text", Answer(b"some text")))[0] == 415
    status, found = ask_url(client, server.add("/endless", Answer(bytes(1000), transfer="endless")))
    assert (status, "more than 5,000 bytes" in found["error"]) == (502, True)
    impatient = open_client(allow_private=True, timeout=0.2)
    assert ask_url(impatient, server.add("/stall", Answer(picture, transfer="stall")))[0] == 504
    assert ask_url(client, server.add("/loop", redirect("/loop")))[0] == 502
    assert ask_url(client, server.add("/file", redirect("file:///etc/passwd")))[0] == 502
    for url in ("file:///etc/passwd", "/etc/passwd", "ftp://example.org/a.jpg", "http://" + "a" * 5000):
        assert ask_url(client, url)[0] == 400
    assert ask_url(client, "http://")[0] == 502
    assert ask_url(client, 5)[0] == 400


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "0.0.0.0", "0x7f.1"]
)
def test_private_addresses_are_never_asked(client, server, host):
    port = server.url.rpartition(":")[2]
    status, found = ask_url(client, f"http://{host}:{port}/a.jpg")
    assert (status, server.requests) == (403, [])
    assert found == {"error": "the URL, or one that it redirects to, has no public address"}


@pytest.mark.parametrize("host", ["127.1", "2130706433"])
def test_addresses_in_an_odd_form_are_refused(client, server, host):
    port = server.url.rpartition(":")[2]
    assert ask_url(client, f"http://{host}:{port}/a.jpg")[0] == 502
    assert server.requests == []


def test_a_public_server_cant_redirect_to_a_private_one(client, server, monkeypatch):
    """The first server stands for a public one; its redirect leads to this machine."""
    port = int(server.url.rpartition(":")[2])
    check = fetch._open_public_socket

    def open_socket(info):
        import socket

        return socket.socket(*info[:3]) if info[4][1] == port else check(info)

    monkeypatch.setattr(fetch, "_open_public_socket", open_socket)
    with LoopbackServer() as inner:
        for place in (inner.url, inner.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
            assert ask_url(client, server.add("/r", redirect(f"{place}/secret")))[0] == 403
        assert inner.requests == []


def test_fetching_can_be_turned_off(open_client, server):
    client = open_client(url_fetch=False, allow_private=True)
    assert ask_url(client, server.url)[0] == 403
    assert server.requests == []
    assert 'id="url-form"' not in client.get("/").text


def test_grey_pictures_and_those_with_an_orientation(client, network, tmp_path, capsys):
    grey = cv2.cvtColor(odd_pictures.smooth(1), cv2.COLOR_BGR2GRAY)
    for name, body in (
        ("grey.png", odd_pictures.encode(".png", grey)),
        ("turned.jpg", odd_pictures.with_orientation(odd_pictures.encode(".jpg", odd_pictures.smooth(2)), 6)),
        ("palette.png", odd_pictures.palette_png()),
        ("animation.gif", odd_pictures.animation(".gif")),
    ):
        (tmp_path / name).write_bytes(body)
        found = client.post("/api/predict", content=body).json()["classes"]
        assert found == as_predict_prints(network, capsys, tmp_path / name), name
