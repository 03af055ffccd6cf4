import json
import sys

import pytest
import torch

from benchmarks import gpu, gpu_setup
from benchmarks.gpu_tables import BEGIN, END
from tests.programs import run

TINY = ["--device=cpu", "--tiny", "--iterations=2"]


def test_without_a_gpu_it_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: there is no GPU here; --device cpu --tiny --iterations 3 only tries the program"
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of a tiny measurement of all parts but the command."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    assert gpu.main([f"--out={out}", *TINY, "--parts", "modes", "where", "evaluation", "feed"]) == 0
    return out


def test_every_part_is_measured(measured):
    results = json.loads((measured / "gpu.json").read_text())
    assert "skipped" not in results
    assert [(mode["precision"], mode["graph"]) for mode in results["modes"]] == [("fp32", False), ("bf16", False)]
    assert [mode["precision"] for mode in results["plain"]] == ["fp32", "bf16"]
    loops = [*results["modes"], *results["plain"]]
    assert all(loop["ms"] > 0 and loop["iterations"] == 2 and not loop["cut"] for loop in loops)
    assert results["feed"]["images_per_second"] > 0 < results["feed"]["ms"]
    assert results["evaluation"].keys() == {"fp32", "bf16"}
    assert results["where"]["kernels"]
    assert "a tiny network, whose times mean nothing" in (measured / "gpu.md").read_text()


def test_the_tables_of_a_measurement_are_written_into_a_document(measured, tmp_path):
    document = tmp_path / "performance.md"
    document.write_text(f"{BEGIN}\n{END}\n")
    assert gpu.main([f"--out={measured}", "--render", f"--docs={document}"]) == 0
    assert (measured / "gpu.md").read_text().strip() in document.read_text()


def test_a_part_that_fails_or_has_no_time_left_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of luck\nmore")

    monkeypatch.setattr(gpu, "measure_where", fail)
    assert gpu.main([f"--out={tmp_path}", *TINY, "--parts", "modes", "where"]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["skipped"] == {"where": "RuntimeError: out of luck"}
    assert len(results["modes"]) == 2
    assert gpu.main([f"--out={tmp_path}", *TINY, "--parts", "feed", "--budget=0"]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["skipped"] == {"feed": "TimeoutError: no time was left"}


def test_a_slow_mode_is_cut_and_counts_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_setup, "DISPLAY", 1)
    assert (
        gpu.main([f"--out={tmp_path}", "--device=cpu", "--tiny", "--iterations=8", "--parts=modes", "--budget=1e-3"])
        == 0
    )
    modes = json.loads((tmp_path / "gpu.json").read_text())["modes"]
    assert [(mode["iterations"], mode["cut"]) for mode in modes] == [(2, True)] * 2


@pytest.mark.slow
def test_the_command_is_measured_too(tmp_path):
    done = run(sys.executable, "-m", "benchmarks.gpu", f"--out={tmp_path}", *TINY)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert "skipped" not in results
    assert results["command"]["images_per_second"] > 0
