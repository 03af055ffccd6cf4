import pytest

from benchmarks.gpu_tables import BEGIN, END, format_tables, replace_tables

RESULTS = {
    "device": "NVIDIA H200",
    "torch": "2.14.1",
    "cuda": "13.0",
    "cores": 16,
    "full_size": True,
    "batch": 50,
    "flop": 205.6e9,
    "modes": [
        {"precision": "fp32", "graph": False, "iterations": 800, "cut": True, "ms": 6.0, "ms_of_rounds": [6.1, 5.9]},
        {"precision": "bf16", "graph": True, "iterations": 2000, "cut": False, "ms": 2.0, "ms_of_rounds": [2.0, 2.0]},
    ],
    "plain": [
        {"precision": "bf16", "graph": False, "iterations": 2000, "cut": False, "ms": 4.0, "ms_of_rounds": [4.0, 4.0]},
    ],
    "where": {
        "mode": ["bf16", True],
        "total_us": 2000.0,
        "kernels": [["sm90_xmma_fprop_implicit_gemm_bf16", 1000.0], ["crop_kernel", 20.0], ["unheard_of", 80.0]],
    },
    "feed": {"workers": 16, "images_per_second": 20000.0, "mode": ["bf16", True], "ms": 2.5},
    "evaluation": {"fp32": 50000.0},
    "skipped": {"command": "CalledProcessError: no"},
}


def test_the_tables_have_what_was_measured_and_what_was_cut():
    lines = "\n".join(format_tables(RESULTS)).splitlines()
    assert lines[0].startswith("NVIDIA H200, 16 processor cores, PyTorch 2.14.1 with CUDA 13.0, the full-size CaffeNet")
    fp32 = "| fp32 | single kernels | 6.00 (cut after 800 iterations) | 6.10, 5.90 | 8,333 | 51% | 10.0 min |"
    assert fp32 in lines
    assert "| bf16 | one graph | 2.00 | 2.00, 2.00 | 25,000 | 10% | 3.3 min |" in lines
    assert "| bf16 | plain PyTorch loop | 4.00 | 4.00, 4.00 | 12,500 | 5% | 6.7 min |" in lines
    assert "| iterations fed by the loader, bf16, one graph | 20,000 |" in lines
    assert "| convolutions | 1,000 | 50% |" in lines
    assert "| transform | 20 | 1% |" in lines
    assert "| others | 980 | 49% |" in lines  # with the kernels that are not listed
    assert lines[-1] == "The part `command` was skipped: CalledProcessError: no."


def test_an_interrupted_measurement_has_the_tables_of_its_first_parts():
    lines = list(
        format_tables({key: value for key, value in RESULTS.items() if key not in {"where", "feed", "skipped"}})
    )
    assert any(line.startswith("| bf16 | one graph") for line in lines)
    assert not any("skipped" in line or "kernels of" in line for line in lines)


def test_a_document_keeps_all_but_its_tables(tmp_path):
    document = tmp_path / "performance.md"
    document.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter <!-- end -->\n")
    for tables in ("new", "newer"):
        replace_tables(document, tables)
        assert document.read_text() == f"before\n\n{BEGIN}\n\n{tables}\n\n{END}\n\nafter <!-- end -->\n"
    document.write_text("without markers")
    with pytest.raises(ValueError, match="does not have the lines"):
        replace_tables(document, "new")
