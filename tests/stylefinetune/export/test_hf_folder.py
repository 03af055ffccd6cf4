import importlib.util
import json
import math

import pytest
import timm
import torch
from PIL import Image

from stylefinetune.errors import UserError
from stylefinetune.export.check import compare_logits, expected_logits
from stylefinetune.export.hf_folder import check_folder, crop_fraction, is_for_timm, read_logits, write_folder
from stylefinetune.export.pictures import read_pictures


@pytest.mark.parametrize("arch", ["resnet18", "timm/vit_tiny_patch16_224"])
def test_timm_loads_network_and_preprocessing(save_network, open_network, tmp_path, arch):
    """timm's own transform of a PNG, which everybody decodes to the same pixels, gives the same logits."""
    network, _ = open_network(save_network(arch))
    Image.linear_gradient("L").convert("RGB").rotate(30).resize((120, 90)).save(tmp_path / "x.png")
    pictures = read_pictures(network.saved, [tmp_path / "x.png"])
    folder = tmp_path / "a folder"
    write_folder(folder, network, pictures)
    assert is_for_timm(folder)
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    with torch.no_grad():
        found = net(transform(Image.open(tmp_path / "x.png"))[None])
    compare_logits(expected_logits(network, pictures), found)
    compare_logits(expected_logits(network, pictures), read_logits(folder, network, pictures))
    assert json.loads((folder / "config.json").read_text())["label_names"] == ["Noir", "Hazy", "Bright"]


@pytest.mark.parametrize("name", ["trained", "other"])
def test_networks_that_timm_does_not_have_are_described(request, name, save_network, open_network, tmp_path):
    path = save_network("mobilenet_v2") if name == "other" else request.getfixturevalue(name)
    network, pictures = open_network(path)
    write_folder(tmp_path / "folder", network, pictures)
    assert not is_for_timm(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["network"] == network.arch
    compare_logits(expected_logits(network, pictures), read_logits(tmp_path / "folder", network, pictures))


def test_timm_computes_the_side_from_the_fraction():
    for side in range(65, 600):
        for crop in (64, 160, 224):
            if crop <= side:
                assert math.floor(crop / crop_fraction(crop, side)) == side


def test_a_folder_with_other_files_is_not_replaced(tmp_path, monkeypatch):
    check_folder(tmp_path / "new")
    (tmp_path / "config.json").write_text("{}")
    check_folder(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"exists and isn't an earlier export; name another folder"):
        check_folder(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'stylefinetune\[export\]'"):
        check_folder(tmp_path / "new")
    assert importlib.util.find_spec("timm") is None
