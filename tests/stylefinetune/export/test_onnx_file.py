import importlib.util
import json

import numpy as np
import onnxruntime
import pytest

from stylefinetune.errors import UserError
from stylefinetune.export.__main__ import export
from stylefinetune.export.check import expected_logits
from stylefinetune.export.network import DESCRIPTION
from stylefinetune.export.onnx_file import check_packages


def test_onnx_runtime_computes_the_logits_of_any_number_of_pictures(trained, open_network, tmp_path):
    network, pictures = open_network(trained)
    export([str(trained), "--to=onnx", f"--out={tmp_path / 'net'}"])
    assert [path.name for path in tmp_path.iterdir()] == ["net"]  # the weights are inside
    session = onnxruntime.InferenceSession(tmp_path / "net", providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("pixels", ["batch", 3, 43, 43])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch", 4])]
    description = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    assert description["classes"] == ["Noir", "Hazy", "Bokeh", "Bright"]
    assert description["preprocessing"]["normalization"]["in_file"] is True
    pixels, expected = pictures.cropped.numpy(), expected_logits(network, pictures).numpy()
    for count in (1, 3):
        (found,) = session.run(None, {"pixels": pixels[:count]})
        assert np.abs(found - expected[:count]).max() <= 1e-5 * np.abs(expected).max()


def test_a_missing_package_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"--to onnx needs onnxscript; run: pip install 'stylefinetune\[export\]'"):
        check_packages()
