import json
import sys

import torch

from stylefinetune.export.__main__ import export
from stylefinetune.export.check import expected_logits
from stylefinetune.export.network import DESCRIPTION
from tests.programs import run

LOAD = """
import sys, torch
program = torch.export.load(sys.argv[1])
with torch.no_grad():
    torch.save(program.module()(torch.load(sys.argv[2])), sys.argv[3])
assert "stylefinetune" not in sys.modules
"""


def test_a_program_without_this_package_computes_the_logits(trained, open_network, tmp_path):
    """In a process of its own, which has only torch."""
    network, pictures = open_network(trained)
    path = tmp_path / "net.pt2"
    export([str(trained), "--to=torch", f"--out={path}"])
    torch.save(pictures.cropped, tmp_path / "pixels.pt")
    done = run(sys.executable, "-c", LOAD, path, tmp_path / "pixels.pt", tmp_path / "logits.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = expected_logits(network, pictures)
    found = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    extra = {DESCRIPTION: ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra[DESCRIPTION])["classes"] == ["Noir", "Hazy", "Bokeh", "Bright"]
