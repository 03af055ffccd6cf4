"""Writes a network as an ONNX file, whose input is pixels, and loads it again with ONNX Runtime."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch

from stylefinetune.errors import UserError
from stylefinetune.export.network import DESCRIPTION, TrainedNetwork
from stylefinetune.export.pictures import Pictures
from stylefinetune.export.torch_program import export_program

INPUT, OUTPUT = "pixels", "logits"
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_packages() -> None:
    """Check that the packages are installed.

    Raises:
        UserError: one is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx needs {', '.join(missing)}; run: pip install 'stylefinetune[export]'")


def write_onnx(path: Path, network: TrainedNetwork, pictures: Pictures) -> None:
    """Write the file; its batch is dynamic, and its metadata has the description."""
    check_packages()
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it would log each optimization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about its own code
        program = torch.onnx.export(
            export_program(network, pictures),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    for value in (program.model.graph.inputs[0], program.model.graph.outputs[0]):
        assert value.shape is not None
        value.shape[0] = "batch"  # PyTorch's own name of the dimension has a number
    program.model.metadata_props[DESCRIPTION] = network.description(normalizes=True)
    program.save(path, external_data=False)


def read_logits(path: Path, _network: TrainedNetwork, pictures: Pictures) -> torch.Tensor:
    """Return the logits that the file gives, [B, classes]."""
    import onnxruntime  # noqa: PLC0415 -- of an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: pictures.cropped.numpy()})[0])
