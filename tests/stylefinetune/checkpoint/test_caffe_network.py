import dataclasses

import numpy as np
import pytest
import torch

from stylefinetune.caffe.files import read_mean
from stylefinetune.checkpoint.caffe_network import CaffeFiles, read_caffe_network
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.data.transforms import Crops
from stylefinetune.errors import UserError
from stylefinetune.export.caffe_files import write_caffe
from tests.deploy import INPUT, deploy_text
from tests.drawn_checkpoints import CLASSES, save


@pytest.fixture
def files(golden, tmp_path):
    (tmp_path / "deploy.prototxt").write_text(deploy_text(golden))
    return CaffeFiles(
        weights=golden / "micro" / "finetune" / "micro_ft_iter_0.caffemodel",
        deploy=tmp_path / "deploy.prototxt",
        mean=str(golden / "micro" / "mean.binaryproto"),
        mean_value=(),
        class_names=None,
        image_size=None,
    )


def change(files, **changes):
    return dataclasses.replace(files, **changes)


def test_the_files_of_export_are_read_as_the_checkpoint_itself(tmp_path):
    _, path = save(tmp_path)
    saved = read_checkpoint(path)
    deploy, weights, mean, labels = write_caffe(saved, tmp_path)
    read = read_caffe_network(CaffeFiles(weights, deploy, str(mean), (), labels, None))
    assert read.progress.classes == CLASSES
    assert (read.progress.picture_size, read.progress.input_size) == ([48, 48], [43, 43])
    torch.testing.assert_close(read.tensors, saved.tensors, rtol=0, atol=0)
    torch.testing.assert_close(read.means[1], saved.means[1], rtol=0, atol=0)
    pictures = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    ours, theirs = (scores(each, pictures) for each in (read, saved))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def scores(checkpoint, pictures):
    net, transform = checkpoint.build_network(torch.device("cpu"))
    offset = torch.full((len(pictures),), 2)
    with torch.no_grad():
        return net(transform(pictures, Crops(offset, offset, torch.zeros(len(pictures), dtype=torch.bool), (43, 43))))


def test_the_mean_gives_the_size_of_the_pictures(files):
    read = read_caffe_network(files)
    assert read.progress.picture_size == [80, 80]
    assert read.progress.classes == [str(number) for number in range(20)]
    assert read.config.model.title == "MicroFlickrStyle"
    assert read.path == files.weights


def test_mean_values_are_in_caffes_order_and_need_a_size_or_have_256(files):
    values = change(files, mean=None, mean_value=(104.0, 117.0, 123.0))
    read = read_caffe_network(values)
    assert read.progress.picture_size == [256, 256]
    assert read.means[1].flatten().tolist() == [123, 117, 104]  # RGB
    assert read_caffe_network(change(values, image_size=80)).progress.picture_size == [80, 80]
    scaled = read_caffe_network(change(values, mean_value=(0.0,), scale=0.5))
    assert scaled.config.data.scale == 0.5
    assert not scaled.means[1].any()


def test_a_mean_may_be_npy(files, golden, tmp_path):
    np.save(tmp_path / "mean.npy", read_mean(golden / "micro" / "mean.binaryproto"))  # as Caffe's ilsvrc_2012_mean.npy
    ours, theirs = read_caffe_network(change(files, mean=str(tmp_path / "mean.npy"))), read_caffe_network(files)
    assert torch.equal(ours.means[1], theirs.means[1])


def test_what_does_not_fit_is_one_line(files, tmp_path):
    cases = {
        "needs what is subtracted from a picture: --mean FILE, or --mean_value": {"mean": None},
        "--mean and --mean_value are both set": {"mean_value": (1.0,)},
        "--mean .*gone: no such file": {"mean": str(tmp_path / "gone")},
        "input of 75x75 pixels can't be cut from pictures of 60x60": {"image_size": 60},
        "is 80x80x3; the pictures .* are 90x90": {"image_size": 90},
        "mean_value has 2 values|one for each channel|1 or 3": {"mean": None, "mean_value": (1.0, 2.0)},
        r"gone\.caffemodel can't be read": {"weights": tmp_path / "gone.caffemodel"},
    }
    for message, changes in cases.items():
        with pytest.raises(UserError, match=message):
            read_caffe_network(change(files, **changes))
    (names := tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"names\.txt has 2 classes, and the network 20"):
        read_caffe_network(change(files, class_names=names))
    with pytest.raises(UserError, match=r"--class_names .* can't be read: No such file"):
        read_caffe_network(change(files, class_names=tmp_path / "gone"))


def test_weights_of_another_network_are_refused(files, golden):
    text = deploy_text(golden, change=lambda text: text.replace("fc8_flickr", "fc8_other"))
    files.deploy.write_text(text)
    with pytest.raises(UserError, match=r"micro_ft_iter_0\.caffemodel lacks the layer fc8_other of "):
        read_caffe_network(files)
    files.deploy.write_text(deploy_text(golden, change=lambda text: text.replace("num_output: 20", "num_output: 10")))
    with pytest.raises(UserError, match="20x32 in the file and 10x32 in the network"):
        read_caffe_network(files)
    files.deploy.write_text(deploy_text(golden, input_=INPUT.replace("dim: 75 dim: 75", "dim: 80 dim: 75")))
    with pytest.raises(UserError, match="input of 80x75 pixels can't be cut from pictures of 80x80"):
        read_caffe_network(files)
