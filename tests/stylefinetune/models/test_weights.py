import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stylefinetune.caffe.files import read_caffemodel, write_caffemodel
from stylefinetune.caffe.schema import message_class
from stylefinetune.config.schema import ModelConfig
from stylefinetune.errors import UserError
from stylefinetune.models import build
from stylefinetune.models.weights import load_weights

WIDTHS = (8, 16, 24, 24, 16, 32, 32)


def net(last_layer="fc8_flickr", classes=20):
    return build.build_model(ModelConfig(widths=WIDTHS, last_layer=last_layer), classes, [(80, 80)], seed=1)


def test_layers_are_copied_by_name_and_other_layers_reported_or_kept(golden):
    source = golden / "micro" / "source" / "micro_src_iter_200.caffemodel"
    initial, tuned, lines = net(), net(), []
    load_weights(tuned, str(source), lines.append)
    assert lines == ["Ignoring source layer fc8"]
    blobs = read_caffemodel(source)
    assert torch.equal(tuned.get_submodule("conv1").weight.detach(), torch.from_numpy(blobs["conv1"][0]))
    assert torch.equal(tuned.get_submodule("fc7").bias.detach(), torch.from_numpy(blobs["fc7"][1]))
    assert torch.equal(tuned.get_submodule("fc8_flickr").weight, initial.get_submodule("fc8_flickr").weight)


@pytest.mark.parametrize("name", ["fc8-mine", "fc8/style.v2", "train"])
def test_a_layer_of_any_name_is_copied(tmp_path, name):
    source = net(last_layer=name)
    save_file(dict(source.state_dict()), tmp_path / "model.safetensors")
    *_, weight, bias = source.parameters()
    blobs = [parameter.detach().numpy() for parameter in (weight, bias)]
    message = message_class("NetParameter")()
    message.layer.add(name=name, type="InnerProduct")
    write_caffemodel(tmp_path / "x.caffemodel", message, {name: blobs})
    for file in ("model.safetensors", "x.caffemodel"):
        tuned, lines = net(last_layer=name), list[str]()
        list(tuned.parameters())[-2].data.zero_()
        assert name in load_weights(tuned, str(tmp_path / file), lines.append).copied
        assert torch.equal(list(tuned.parameters())[-2], weight)
    load_weights(net(), f"{tmp_path}/model.safetensors,{tmp_path}/model.safetensors", lines.append)
    assert lines == [f"Ignoring source layer {name}"] * 2


@pytest.mark.parametrize("name", ["x.caffemodel.h5", "x.caffemodel", "x.h5"])
def test_hdf5_is_refused_with_a_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UserError, match="is an HDF5 file; let Caffe write it with snapshot_format: BINARYPROTO"):
        load_weights(net(), str(tmp_path / name), lambda _: None)


def test_later_files_win(golden, tmp_path):
    second = tmp_path / "second.safetensors"
    save_file({"fc7.bias": torch.full((32,), 7.0)}, second)
    source = golden / "micro" / "source" / "micro_src_iter_200.caffemodel"
    tuned = net()
    load_weights(tuned, f"{source},{second}", lambda _: None)
    assert tuned.get_submodule("fc7").bias.unique().tolist() == [7.0]


def test_legacy_shapes_of_fully_connected_layers_are_accepted(tmp_path):
    file = tmp_path / "old.safetensors"
    weight = torch.arange(32.0 * 64).reshape(1, 1, 32, 64)
    save_file({"fc6.weight": weight, "fc6.bias": torch.ones(1, 1, 1, 32)}, file)
    tuned = net()
    load_weights(tuned, str(file), lambda _: None)
    assert torch.equal(tuned.get_submodule("fc6").weight.detach(), weight.reshape(32, 64))


def test_another_shape_is_an_error_that_suggests_to_rename_the_layer(golden):
    source = golden / "micro" / "source" / "micro_src_iter_200.caffemodel"
    with pytest.raises(
        UserError, match=r"fc8\.weight is 30x32 in the file and 20x32 in the network; .*rename the layer"
    ):
        load_weights(net(last_layer="fc8"), str(source), lambda _: None)


def caffemodel(path, **layers):
    message = message_class("NetParameter")()
    for name in layers:
        message.layer.add(name=name, type="InnerProduct")
    write_caffemodel(path, message, {name: [np.ones(shape, np.float32) for shape in layers[name]] for name in layers})
    return str(path)


def test_a_layer_with_fewer_or_more_blobs_is_refused_as_in_caffe(tmp_path):
    fewer = caffemodel(tmp_path / "fewer.caffemodel", fc7=[(32, 32)])
    with pytest.raises(UserError, match=r"differ in fc7\.bias, which the file lacks; .*rename the layer"):
        load_weights(net(), fewer, lambda _: None)
    more = caffemodel(tmp_path / "more.caffemodel", fc7=[(32, 32), (32,), (1,)])
    with pytest.raises(UserError, match=r"differ in fc7\.2, which the network lacks"):
        load_weights(net(), more, lambda _: None)


def test_only_leading_dimensions_of_1_are_ignored(tmp_path):
    turned = caffemodel(tmp_path / "turned.caffemodel", fc8_flickr=[(32, 1), (1,)])
    with pytest.raises(UserError, match=r"fc8_flickr\.weight is 32x1 in the file and 1x32 in the network"):
        load_weights(net(classes=1), turned, lambda _: None)


def test_an_unusable_file_is_one_line(tmp_path):
    unknown = tmp_path / "strange.safetensors"
    save_file({"layer1.weight": torch.ones(2)}, unknown)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not at all")
    for file, line in [
        (tmp_path / "none.caffemodel", "can't be read"),
        (tmp_path / "none.safetensors", "can't be read"),
        (tmp_path / "model.onnx", "neither a .caffemodel, a .safetensors, a .pth nor a checkpoint's folder"),
        (broken, "can't be read"),
        (unknown, "shares no layer with the network; it holds layer1"),
    ]:
        with pytest.raises(UserError) as error:
            load_weights(net(), str(file), lambda _: None)
        assert line in str(error.value)
        assert "\n" not in str(error.value)


def other_net(arch="resnet18", classes=5, seed=1):
    return build.build_model(ModelConfig(arch=arch), classes, [(32, 32)], seed)


def saved_weights(path, net, **changes):
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file({**tensors, **changes}, path)
    return str(path)


def test_another_networks_tensors_are_copied_by_name_and_the_rest_reported(tmp_path):
    source = other_net(classes=9, seed=2)
    source.bn1.running_mean.fill_(3.0)
    source.bn1.num_batches_tracked.fill_(44)
    extra = {f"aux.{letter}.weight": torch.zeros(2) for letter in "abcdefghijkl"}
    file = saved_weights(tmp_path / "x.safetensors", source, **extra)
    tuned, initial, lines = other_net(), other_net(), []
    loaded = load_weights(tuned, file, lines.append, "resnet18")
    assert lines == [
        "Copied the weights of 40 of 41 layers",
        "Random weights in fc",
        f"Ignoring source layers {', '.join(f'aux.{letter}' for letter in 'abcdefghij')}, ... (12 in total)",
    ]
    assert (loaded.reset, len(loaded.copied)) == (["fc"], 40)
    assert torch.equal(tuned.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert torch.equal(tuned.fc.weight, initial.fc.weight)
    assert (tuned.bn1.running_mean[0].item(), tuned.bn1.num_batches_tracked.item()) == (3.0, 44)


def test_a_classifier_for_as_many_classes_is_copied(tmp_path):
    source, tuned, lines = other_net(seed=2), other_net(), []
    load_weights(tuned, saved_weights(tmp_path / "x.safetensors", source), lines.append, "resnet18")
    assert lines == ["Copied the weights of 41 of 41 layers"]
    assert torch.equal(tuned.fc.weight, source.fc.weight)


def test_weights_of_another_network_are_one_line(tmp_path):
    file = saved_weights(tmp_path / "x.safetensors", other_net("resnext50_32x4d"))
    with pytest.raises(UserError, match=r"\w\.\w+ is [\dx]+ in the file and .* use weights of this network \(mod"):
        load_weights(other_net("resnet50"), file, lambda _: None, "resnet50")
    file = saved_weights(tmp_path / "y.safetensors", net())
    with pytest.raises(UserError, match=r"shares no layer with the network; it holds .*conv2"):
        load_weights(other_net("vgg11"), file, lambda _: None, "vgg11")


def test_default_weights_of_caffenet_are_the_published_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"stylefinetune weights bvlc_reference_caffenet"):
        load_weights(net(), "DEFAULT", lambda _: None)
