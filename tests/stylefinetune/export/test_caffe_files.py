import dataclasses
import os
import shutil
import subprocess
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from google.protobuf import text_format

from stylefinetune.caffe.deploy_net import deploy_net
from stylefinetune.caffe.files import read_caffemodel, read_mean
from stylefinetune.caffe.graph.store import read_stored
from stylefinetune.caffe.schema import message_class
from stylefinetune.checkpoint import checkpoint
from stylefinetune.checkpoint.checkpoint import Progress
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, ModelConfig
from stylefinetune.engines.engine import EngineState
from stylefinetune.errors import UserError
from stylefinetune.export.__main__ import export
from stylefinetune.export.caffe_files import write_caffe
from stylefinetune.models import build
from stylefinetune.models.state import stored_buffers
from stylefinetune.models.weights import load_weights
from tests.programs import python, run
from tests.stylefinetune.models.caffe_graph import published_nets

OPENCV_FORWARD = """
import sys, cv2, numpy
deploy, model, pictures, out, last_layer = sys.argv[1:]
net = cv2.dnn.readNetFromCaffe(deploy, model)
net.setInput(numpy.load(pictures))
prob, logits = net.forward(["prob", last_layer])
numpy.savez(out, prob=prob, logits=logits)
"""


@pytest.fixture(scope="session")
def opencv4():
    """The Python of a separate environment with OpenCV 4, cached between test runs.

    This project uses OpenCV 5, which no longer has readNetFromCaffe.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stylefinetune" / "opencv4"
    python = folder / "bin" / "python"
    check = [python, "-c", "import cv2, numpy; cv2.dnn.readNetFromCaffe"]
    if not python.exists() or subprocess.run(check, capture_output=True, check=False).returncode:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "-q", "opencv-python-headless<5", "numpy"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            shutil.rmtree(folder)
            pytest.skip(f"pip cannot install OpenCV 4: {done.stderr.strip().splitlines()[-1:]}")
    return python


def opencv_forward(interpreter, tmp_path, deploy, model, pictures, last_layer="fc8_flickr"):
    np.save(tmp_path / "pictures.npy", pictures)
    out = tmp_path / "out.npz"
    done = run(interpreter, "-c", OPENCV_FORWARD, deploy, model, tmp_path / "pictures.npy", out, last_layer)
    assert done.returncode == 0, done.stderr
    outputs = np.load(out)
    return outputs["logits"], outputs["prob"]


@pytest.fixture
def narrow_checkpoint(tmp_path):
    """A checkpoint of a narrow net for pictures of 64x60, whose weights keep all activations nonzero.

    OpenCV's pooling needs at least the 3 pixels of the kernel, unlike Caffe's and ours, so the crop has 55 pixels.
    """
    config = Config(
        data=DataConfig(image_size=(64, 60), crop_size=55),
        model=ModelConfig(widths=(8, 16, 24, 24, 16, 32, 32), last_layer="fc8/wild.v2"),
    )
    net = build.build_model(config.model, 4, [(55, 55)], seed=0)
    rng = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        scale = 0.1 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5 / (64 if "conv1" in name else 1)
        parameter.data.normal_(std=scale, generator=rng)
    state = EngineState({name: value.detach() for name, value in net.named_parameters()}, {}, {"momentum_buffer": {}})
    classes = ["Noir", "Hazy", "Bokeh", "Bright"]
    progress = Progress(7, [1.5], [], 1701, classes, "f00d", [64, 60], [55, 55])
    means = (torch.full((64, 60, 3), 99.0), torch.rand(64, 60, 3, generator=rng) * 255)
    return checkpoint.save_checkpoint(tmp_path / "run", progress, state, config, means)


def test_opencv_computes_the_logits_of_the_checkpoint_for_two_pictures(narrow_checkpoint, drawn, opencv4, tmp_path):
    photos = [str(drawn.folder / f"test_00{number}.jpg") for number in range(3)]
    export([str(narrow_checkpoint), "--to=caffemodel", f"--out={tmp_path}", "--pictures", *photos])
    name = tmp_path / "caffenet_iter_7"
    mean = read_mean(Path(f"{name}_mean.binaryproto"))
    pictures = []
    for picture in ("test_001.jpg", "test_002.jpg"):
        bgr = cv2.resize(cv2.imread(str(drawn.folder / picture)), (60, 64), interpolation=cv2.INTER_LINEAR)
        pictures.append((bgr.transpose(2, 0, 1) - mean)[:, 4:59, 2:57])
    files = f"{name}_deploy.prototxt", f"{name}.caffemodel"
    logits, prob = opencv_forward(opencv4, tmp_path, *files, np.stack(pictures), "fc8/wild.v2")
    net, _ = checkpoint.read_checkpoint(narrow_checkpoint).build_network(torch.device("cpu"))
    with torch.no_grad():
        expected = net(torch.from_numpy(np.stack(pictures)))
    assert (expected[0] - expected[1]).abs().max() > 0.01 * expected.abs().max()  # the two pictures differ
    assert np.abs(logits - expected.numpy()).max() <= 1e-4 * expected.abs().max()
    assert np.abs(prob - expected.softmax(1).numpy()).max() <= 1e-4


def test_opencv_reads_weights_of_caffe_with_our_deploy_prototxt(golden, opencv4, tmp_path):
    """The activations are Caffe's for the first pictures of iteration 0."""
    folder = golden / "micro" / "finetune"
    truth = np.load(folder / "golden_finetune.npz")
    net = build.build_model(ModelConfig(widths=(8, 16, 24, 24, 16, 32, 32)), 20, [(80, 80)], seed=0)
    (tmp_path / "deploy.prototxt").write_text(
        text_format.MessageToString(deploy_net(net.named_children(), "Micro", (80, 80)))
    )
    caffes = truth["act0/fc8_flickr"]
    listed = (golden / "micro" / "train.txt").read_text().splitlines()[: len(caffes)]
    pictures = [cv2.imread(str(golden / "micro" / line.split()[0])).transpose(2, 0, 1) for line in listed]
    data = np.stack(pictures) - read_mean(golden / "micro" / "mean.binaryproto")
    weights = folder / "micro_ft_iter_0.caffemodel"
    logits, _ = opencv_forward(opencv4, tmp_path, tmp_path / "deploy.prototxt", weights, data)
    assert np.abs(logits - caffes).max() <= 1e-4 * np.abs(caffes).max()


def save_caffe_net(text, side, folder):
    """Save a checkpoint of a net in prototxt, after some training steps, which change its statistics."""
    model = ModelConfig(arch="caffe", prototxt=text, display_name="Any net")
    net = build.build_model(model, 6, [(side, side)], seed=3)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, side, side, generator=rng) * 60)
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    state = EngineState(parameters, stored_buffers(net), {"momentum_buffer": {}})
    progress = Progress(7, [1.5], [], 1701, list("abcdef"), "f00d", [side, side], [side, side])
    config = Config(data=DataConfig(image_size=(side, side), crop_size=side), model=model)
    return checkpoint.save_checkpoint(folder / "run", progress, state, config, (torch.zeros(side, side, 3),) * 2)


@pytest.mark.parametrize(
    ("name", "side"), [("googlenet", 97), ("residual", 32), ("squeezenet", 97), ("nin", 131), ("vgg16", 64)]
)
def test_opencv_computes_the_logits_of_any_caffe_net(name, side, opencv4, tmp_path):
    """With the weights that training changed, and the statistics of batch normalization."""
    arguments = {"googlenet": {"share": 0.1}, "vgg16": {"width": 4, "hidden": 16}}.get(name, {})
    saved = checkpoint.read_checkpoint(save_caffe_net(getattr(published_nets, name)(6, **arguments), side, tmp_path))
    text, model, *_ = write_caffe(saved, tmp_path)
    pictures = np.random.default_rng(1).normal(scale=60, size=(2, 3, side, side)).astype(np.float32)
    net, _ = saved.build_network(torch.device("cpu"))
    with torch.no_grad():
        expected = net(torch.from_numpy(pictures)).numpy()
    scores = read_stored(saved.config.model.prototxt, "TEST").scores[-1].blob
    logits, _ = opencv_forward(opencv4, tmp_path, text, model, pictures, scores)
    assert np.abs(expected[0] - expected[1]).max() > 0.002 * np.abs(expected).max()  # the two pictures differ
    assert np.abs(logits.reshape(2, 6) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_files_are_the_input_of_caffes_classification_example(trained, tmp_path):
    saved = checkpoint.read_checkpoint(trained)
    text, model, mean, labels = write_caffe(saved, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([text, model, mean, labels])
    assert text.name == "caffenet_iter_12_deploy.prototxt"
    assert labels.read_text().splitlines() == ["Noir", "Hazy", "Bokeh", "Bright"]
    assert np.array_equal(read_mean(mean), saved.means[1].numpy().transpose(2, 0, 1)[::-1])
    deploy = text_format.Parse(text.read_text(), message_class("NetParameter")())
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 3, 43, 43]
    names = "data conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
    names += " fc6 relu6 drop6 fc7 relu7 drop7 fc8_flickr prob"
    assert [layer.name for layer in deploy.layer] == names.split()
    assert "resized to 48x48, channels in the order B, G, R" in text.read_text()
    for layer, blobs in read_caffemodel(model).items():
        assert np.array_equal(blobs[0], saved.tensors[f"{layer}.weight"].numpy())
        assert np.array_equal(blobs[1], saved.tensors[f"{layer}.bias"].numpy())
    net = build.build_model(saved.config.model, 4, [(43, 43)], seed=5)
    load_weights(net, str(model), pytest.fail)
    assert all(torch.equal(value, saved.tensors[name]) for name, value in net.state_dict().items())


def test_a_mean_value_becomes_a_mean_picture_and_the_scale_is_noted(trained, tmp_path):
    saved = checkpoint.read_checkpoint(trained)
    scaled = dataclasses.replace(saved.config.data, scale=0.017, mean_value=(104, 117, 123))
    config = dataclasses.replace(
        saved.config, data=scaled, model=dataclasses.replace(saved.config.model, display_name="My/Net")
    )
    mean_value = torch.tensor([123.0, 117, 104]).reshape(1, 1, 3)
    text, _, mean, _ = write_caffe(dataclasses.replace(saved, config=config, means=(mean_value, mean_value)), tmp_path)
    assert text.name == "My_Net_iter_12_deploy.prototxt"
    assert read_mean(mean)[:, 0, 0].tolist() == [104, 117, 123]
    assert read_mean(mean).shape == (3, 48, 48)
    assert "times 0.017" in text.read_text()


@pytest.mark.parametrize("changes", [{"channels": "rgb"}, {"std_value": (58.0,)}, {"resize": "shorter_side"}], ids=str)
def test_an_input_that_caffes_files_cannot_describe_is_refused(narrow_checkpoint, tmp_path, changes):
    saved = checkpoint.read_checkpoint(narrow_checkpoint)
    data = dataclasses.replace(saved.config.data, image_size=60, **changes)
    config = dataclasses.replace(saved.config, data=data)
    with pytest.raises(UserError, match=r"; Caffe's files can only say warp, bgr and no data\.std_value"):
        write_caffe(dataclasses.replace(saved, config=config), tmp_path)


def test_the_command_prints_its_files_and_a_mistake_is_one_line(trained, tmp_path):
    done = python("-m", "stylefinetune.export", trained, "--to", "caffemodel", "--out", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(map(str, (tmp_path / "new").iterdir()))
    with pytest.raises(UserError, match="neither a checkpoint nor a run's folder"):
        export([str(tmp_path), "--to=caffemodel"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file can't be written: File exists"):
        export([str(trained), "--to=caffemodel", f"--out={tmp_path / 'file'}"])
