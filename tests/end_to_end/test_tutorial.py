"""The notebook of the documents, as a user runs it: the code of its cells, one after the other."""

import json

import pytest

from tests.programs import ROOT, python


@pytest.mark.slow
def test_the_notebook_runs_from_a_list_of_urls_to_a_confusion_matrix(tmp_path):
    """With aria2, and with the sample's server in a process of its own."""
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for folder in ("configs", "launch"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    code = "".join(f"exec(compile({cell!r}, 'cell {n}', 'exec'), names)\n" for n, cell in enumerate(cells))
    done = python("-c", f"names = {{'__name__': '__main__'}}\n{code}", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "% of" in done.stdout
    matrix = [line for line in done.stdout.splitlines() if line.lstrip().startswith("Noir ")]
    assert len(matrix[-1].split()) == 21
